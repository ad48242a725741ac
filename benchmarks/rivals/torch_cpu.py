"""torch on the CPU: addmm, argmax and index_add_, all into existing buffers."""

from __future__ import annotations

import torch


def describe():
    return {"torch": torch.__version__.split("+")[0]}


def prepare_assign(x, centers, n_threads):
    torch.set_num_threads(n_threads)
    rows, c = torch.from_numpy(x), torch.from_numpy(centers)
    minus_half_norms = -0.5 * c.square().sum(dim=1)
    scores = torch.empty(len(x), len(centers))
    best, labels = torch.empty(len(x)), torch.empty(len(x), dtype=torch.long)

    @torch.inference_mode()
    def assign():
        torch.addmm(minus_half_norms, rows, c.t(), out=scores)
        torch.max(scores, dim=1, out=(best, labels))
        return labels.numpy()

    return assign


def prepare(x, offsets, centers, n_threads):
    torch.set_num_threads(n_threads)
    k, n_images = len(centers), len(offsets) - 1
    rows, c = torch.from_numpy(x), torch.from_numpy(centers)
    sizes = torch.from_numpy(offsets).diff()
    minus_half_norms = -0.5 * c.square().sum(dim=1)
    scores = torch.empty(len(x), k)
    best, labels = torch.empty(len(x)), torch.empty(len(x), dtype=torch.long)
    # Use the cheaper way: subtract each row's own centre, or subtract counts times centres at the end.
    by_rows = len(x) < n_images * k
    residuals = torch.empty_like(rows) if by_rows else rows

    @torch.inference_mode()
    def encode(out):
        vlad = torch.empty(n_images, centers.size) if out is None else torch.from_numpy(out)
        torch.addmm(minus_half_norms, rows, c.t(), out=scores)
        torch.max(scores, dim=1, out=(best, labels))
        cells = torch.repeat_interleave(torch.arange(n_images), sizes).mul_(k).add_(labels)
        if by_rows:
            torch.index_select(c, 0, labels, out=residuals)
            torch.sub(rows, residuals, out=residuals)
        sums = vlad.zero_().view(n_images * k, -1).index_add_(0, cells, residuals)
        if not by_rows:
            counts = torch.bincount(cells, minlength=n_images * k).view(n_images, k, 1).float()
            sums.view(n_images, k, -1).addcmul_(counts, c, value=-1)
        norms = torch.linalg.vector_norm(vlad, dim=1, keepdim=True)
        vlad.mul_(torch.where(norms >= 1e-12, norms.reciprocal(), 0))
        return vlad.numpy(), labels.numpy()

    return encode
