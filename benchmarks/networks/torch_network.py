"""torch on the CPU: channels last, in float32 or with autocast to bfloat16."""

from __future__ import annotations

import numpy as np
import torch


def describe():
    return {"torch": torch.__version__.split("+")[0]}


def prepare(layers, side, n_threads, bfloat16=False):
    torch.set_num_threads(n_threads)
    modules = []
    for layer in layers:
        if layer[0] == "conv":
            _, kernel, bias = layer
            module = torch.nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=1)
            module.weight.data = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
            module.bias.data = torch.from_numpy(bias)
            modules += [module, torch.nn.ReLU(inplace=True)]
        else:
            modules.append(torch.nn.MaxPool2d(2))
    model = torch.nn.Sequential(*modules).eval().to(memory_format=torch.channels_last)

    def run(pixels):
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # already channels last
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return model(x).float().permute(0, 2, 3, 1).contiguous().numpy()

    return run
