"""Models exported by PyTorch (both of its exporters) and scikit-learn, on a program that takes --model, --data, --out,
against onnxruntime.

    python models.py --command 'target/release/examples/evaluate' --tolerance 1e-4
"""

import argparse
import contextlib
import io
import itertools
import logging
import pathlib
import re
import sys
import tempfile
import warnings

import numpy
import onnxruntime
import torch
from sklearn.datasets import make_classification
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from skl2onnx import to_onnx
from torch import nn
from torch.nn import functional

from command import Refused, infer, largest_difference


class Residual(nn.Module):
    """A convolution beside the identity."""

    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )

    def forward(self, x):
        return functional.relu(self.body(x) + x)


class View(nn.Module):
    """Flattens by view, as older code does."""

    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x):
        return x.view(x.size(0), -1) if self.form == "size" else x.reshape(-1, x.shape[1] * x.shape[2] * x.shape[3])


class Branches(nn.Module):
    """Concatenates and averages two paths."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x):
        joined = torch.cat([self.left(x), torch.sigmoid(self.right(x))], dim=1)
        return joined.mean(dim=(2, 3))


class Normalised(nn.Module):
    """Constants per channel in front of a network."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return 1 - 2 * torch.tanh(self.conv((x - self.mean) / 0.25)).flatten(1)


class Tokens(nn.Module):
    """A feed-forward block over the features of every step, with learned positions."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 6, 8) * 0.3)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = x + self.positions
        x = x + self.down(functional.gelu(self.up(self.norm(x))))
        return self.head(x.mean(dim=1))


class Shuffle(nn.Module):
    """Shuffles channels between groups."""

    def forward(self, x):
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def lenet(view):
    head = nn.Sequential(view, nn.Linear(50 * 4 * 4, 50), nn.ReLU(), nn.Linear(50, 10))
    body = [nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*body, head)


def resnet(width):
    stem = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    blocks = [Residual(width), nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), Residual(2 * width)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))


def activations(*layers):
    return {type(layer).__name__ + "_": (nn.Sequential(nn.Linear(6, 8), layer, nn.Linear(8, 3)), (6,)) for layer in layers}


def torch_models():
    """Name: model, dimensions of a sample."""
    image = (3, 12, 12)
    return {
        "linear": (nn.Linear(7, 3), (7,)),
        "linear_without_bias": (nn.Linear(7, 3, bias=False), (7,)),
        "mlp": (nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10), nn.Softmax(1)), (784,)),
        "mlp_dropout": (nn.Sequential(nn.Linear(9, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 4)), (9,)),
        "mlp_of_image": (nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.ReLU(), nn.Linear(16, 2)), image),
        "lenet": (lenet(nn.Flatten()), (1, 28, 28)),
        "lenet_view": (lenet(View("size")), (1, 28, 28)),
        "lenet_reshape": (lenet(View("shape")), (1, 28, 28)),
        "resnet": (resnet(8), image),
        "vgg": (
            nn.Sequential(
                *[nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3)],
                *[nn.ReLU6(), nn.AvgPool2d(2, padding=1), nn.Flatten(), nn.Linear(144, 5), nn.LogSoftmax(1)],
            ),
            image,
        ),
        "mobile": (
            nn.Sequential(
                *[nn.Conv2d(3, 12, 1), nn.Hardswish(), nn.Conv2d(12, 12, 3, 2, 1, groups=12), nn.ReLU6()],
                *[nn.Conv2d(12, 6, 1), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(6, 4), nn.Hardsigmoid()],
            ),
            image,
        ),
        "dilated": (nn.Sequential(nn.Conv2d(3, 6, 3, dilation=2, stride=2, groups=3), nn.Flatten()), image),
        "pools": (
            nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.Flatten()),
            image,
        ),
        "ceil": (nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2, 2, ceil_mode=True)), image),
        "adaptive": (nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten()), image),
        "padded": (nn.Sequential(nn.ZeroPad2d((1, 2, 3, 0)), nn.Conv2d(3, 4, 3), nn.Flatten()), image),
        "transposed": (nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), image),
        "transposed_groups": (nn.Sequential(nn.ConvTranspose2d(4, 6, (2, 3), groups=2), nn.Tanh()), (4, 5, 6)),
        "sequence": (
            nn.Sequential(
                *[nn.Conv1d(4, 8, 3, padding=1), nn.BatchNorm1d(8), nn.LeakyReLU(0.1), nn.MaxPool1d(2)],
                *[nn.ConvTranspose1d(8, 3, 2), nn.AvgPool1d(3), nn.Flatten(), nn.Linear(9, 2)],
            ),
            (4, 16),
        ),
        "norms": (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.SiLU(), nn.InstanceNorm2d(8, affine=True)),
            image,
        ),
        "batch_norm_first": (nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)), (6,)),
        "layer_norm": (nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU()), (6,)),
        "branches": (Branches(), image),
        "normalised": (Normalised(), image),
        "tokens": (Tokens(), (6, 8)),
        "prelu": (nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU(4), nn.PReLU()), image),
        "shuffle": (Shuffle(), (4, 3, 3)),
        **activations(
            *[nn.GELU(), nn.SiLU(), nn.Softplus(), nn.Hardtanh(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.Mish()],
            *[nn.Sigmoid(), nn.Tanh(), nn.Hardswish(), nn.Softmax(1), nn.LogSoftmax(1), nn.ELU(), nn.Identity()],
        ),
    }


def warm_up(model, shape):
    """Moves running averages and norms' scales away from their beginnings."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, *shape) * 1.5 + 0.2)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.eval()


def torch_cases(names):
    for name, (model, shape) in torch_models().items():
        if not re.search(names, name):
            continue
        torch.manual_seed(1)
        warm_up(model, shape)
        x = torch.randn(4, *shape)
        for exporter, opset in [("trace", 13), ("trace", 17), ("trace", 20), ("dynamo", 18), ("dynamo", 21)]:
            arguments = {"dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}}
            if exporter == "dynamo":
                arguments = {"dynamic_shapes": ({0: torch.export.Dim("n", min=2)},), "external_data": False}

            def export(path, arguments=arguments, exporter=exporter, opset=opset):
                arguments = {**arguments, "dynamo": exporter == "dynamo", "opset_version": opset}
                names = {"input_names": ["x"], "output_names": ["y"]}
                torch.onnx.export(model, (x,), path, **names, **arguments)

            yield f"{name}, {exporter} {opset}", export, x.numpy()


def sklearn_cases(names):
    x, y = make_classification(120, 8, n_informative=6, n_classes=3, random_state=1)
    x = x.astype(numpy.float32)
    target = (x @ numpy.arange(8.0)).astype(numpy.float32)
    two = (y > 0).astype(int)
    mlp = {"hidden_layer_sizes": (12, 7), "max_iter": 60, "random_state": 1}
    models = {
        "logistic of two": (LogisticRegression(), two),
        "logistic of three": (LogisticRegression(), y),
        "linear regression": (LinearRegression(), target),
        "ridge of two targets": (Ridge(), numpy.stack([target, -target], 1)),
        "scaled logistic": (make_pipeline(StandardScaler(), LogisticRegression()), y),
        "min-max logistic": (make_pipeline(MinMaxScaler(), LogisticRegression()), two),
        "mlp of two": (MLPClassifier(**mlp), two),
        "mlp of three": (MLPClassifier(activation="tanh", **mlp), y),
        "mlp regression": (MLPRegressor(activation="logistic", **mlp), target),
    }
    for name, (model, labels) in models.items():
        if not re.search(names, name):
            continue
        model.fit(x, labels)
        for zipmap in [True, False]:
            options = {"zipmap": zipmap} if hasattr(model, "classes_") else None

            def export(path, model=model, options=options):
                options = {id(model): options} if options else None
                proto = to_onnx(model, x[:1], options=options, target_opset={"": 17, "ai.onnx.ml": 3})
                path.write_bytes(proto.SerializeToString())

            yield f"{name}, zipmap {zipmap}", export, x[:9]
            if options is None:
                break


def expected(path, x):
    """What onnxruntime says: of several results, the probabilities."""
    session = onnxruntime.InferenceSession(str(path))
    result = session.run(None, {session.get_inputs()[0].name: x})[-1]
    if isinstance(result, list):
        result = numpy.array([list(row.values()) for row in result])
    return result.astype(numpy.float64)


def in_order_of(path, x):
    """`x` with channels first, if the model at `path` has other dimensions."""
    dims = onnxruntime.InferenceSession(str(path)).get_inputs()[0].shape[1:]
    return x if list(x.shape[1:]) == dims else numpy.moveaxis(x, -1, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", required=True)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--only", default="", help="a regular expression for names of models")
    parser.add_argument(
        "--export", action="store_true", help="the program takes --export too: onnxruntime must agree on what it writes"
    )
    parser.add_argument("--keep", help="a folder for the exported models")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    passed, refused, wrong = 0, [], []
    cases = itertools.chain(torch_cases(arguments.only), sklearn_cases(arguments.only))
    for name, export, x in cases:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(arguments.keep or folder) / (re.sub(r"\W+", "-", name) + ".onnx")
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    export(path)
                want = expected(path, x)
            except Exception as error:  # exporters raise anything
                print(f"{name}: not exported: {str(error).splitlines()[0]}")
                continue
            try:
                copy = pathlib.Path(folder) / "copy.onnx"
                command = arguments.command + (f" --export {copy}" if arguments.export else "")
                got = infer(command, folder, path, x)
                if arguments.export:
                    # Sequences and images keep PyTorch's order in the copy.
                    again = expected(copy, in_order_of(copy, x)).reshape(got.shape)
                    difference = largest_difference(again, got)
                    if difference > arguments.tolerance:
                        wrong.append(name)
                        print(f"{name}: WRONG: its copy differs by {difference:.2e}")
                        continue
            except Refused as error:
                refused.append(name)
                print(f"{name}: {error}")
                continue
        difference = largest_difference(got, want)
        if difference <= arguments.tolerance:
            passed += 1
        else:
            wrong.append(name)
            print(f"{name}: WRONG: differs by {difference:.2e}, {got.shape} {want.shape}")
    print(f"{passed} models agree with onnxruntime, {len(refused)} are refused, {len(wrong)} differ: {wrong}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
