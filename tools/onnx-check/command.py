"""Runs the program under test: one that takes --model, --data and --out."""

import pathlib
import shlex
import subprocess

import numpy


class Refused(Exception):
    """The program said no; what it said."""


def infer(command, folder, model_path, x):
    """Results for the rows of `x`, or what the program says against the model."""
    folder = pathlib.Path(folder)
    data, out = folder / "x.npy", folder / "y.npy"
    out.unlink(missing_ok=True)
    numpy.save(data, x)
    arguments = [*shlex.split(command), "--model", str(model_path), "--data", str(data), "--out", str(out)]
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=600)
    if run.returncode != 0:
        said = (run.stderr.strip() or run.stdout.strip() or f"exit code {run.returncode}").splitlines()
        raise Refused(said[-1])
    return numpy.load(out, allow_pickle=False)


def largest_difference(got, want):
    """Of any element, relative to the larger of 1 and the largest value."""
    if got.shape != want.shape:
        return float("inf")
    if got.size == 0:
        return 0.0
    return float(numpy.abs(got - want).max() / max(1.0, numpy.abs(want).max()))
