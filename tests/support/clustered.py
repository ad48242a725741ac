"""Simulated decisions on images of patients, whose images are alike."""

import numpy as np
from scipy.stats import norm


def patients_of(n_patients, images, rng, *, unequal=False):
    """The patient of each image: `images` of each patient, or as many on average."""
    counts = np.maximum(1, rng.poisson(images, n_patients)) if unequal else np.full(n_patients, images)
    return np.repeat(np.arange(n_patients), counts)


def right_images(patients, share, icc, rng):
    """Which images are decided correctly: beta-binomial, with this intraclass correlation."""
    n_patients = patients.max() + 1
    own = np.full(n_patients, share)
    if icc > 0:
        size = 1 / icc - 1
        own = rng.beta(share * size, (1 - share) * size, n_patients)
    return rng.random(len(patients)) < own[patients]


def two_class_scores(patients, n_positive, auc, icc, rng):
    """Labels and scores: patients below `n_positive` are positive, and the population has this AUC."""
    labels = (patients < n_positive).astype(np.int64)
    alike = rng.normal(size=patients.max() + 1)[patients]
    scores = np.sqrt(icc) * alike + np.sqrt(1 - icc) * rng.normal(size=len(patients))
    return labels, scores + labels * np.sqrt(2) * norm.ppf(auc)


def clustered_normal(patients, icc, rng):
    """Standard normal numbers, with this intraclass correlation of the images of a patient."""
    own = rng.normal(size=patients.max() + 1)[patients]
    return np.sqrt(icc) * own + np.sqrt(1 - icc) * rng.normal(size=len(patients))


def two_right(patients, shares, icc, rng, *, alike=0.5):
    """Which images each of two classifiers decides correctly; half of what is hard is hard for both."""

    def mixed(n):
        own, common = rng.normal(size=(2, n)), rng.normal(size=n)
        return np.sqrt(1 - alike) * own + np.sqrt(alike) * common

    hard = np.sqrt(icc) * mixed(patients.max() + 1)[:, patients] + np.sqrt(1 - icc) * mixed(len(patients))
    return [one < norm.ppf(share) for one, share in zip(hard, shares, strict=True)]


def decisions(labels, right):
    """Decision values of two classes: the true class where right, else the other."""
    return np.eye(2)[np.where(right, labels, 1 - labels)]
