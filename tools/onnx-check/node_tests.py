"""ONNX's own backend node tests, which its Python package contains, against a program that takes --model, --data, --out.

    python node_tests.py --command 'target/release/examples/evaluate' --tolerance 1e-3

The tests give weights as inputs of the graph; these become initializers first, as in exported models. Prints every
test of a supported operator that does not pass, and why, then counts.
"""

import argparse
import collections
import re
import sys
import tempfile
import warnings

import numpy
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from command import Refused, infer, largest_difference

# Operators that model-files reads. A test of any other is not counted.
SUPPORTED = set(
    """
    Abs Add AveragePool BatchNormalization Clip Concat Conv ConvTranspose Div Dropout Flatten Gelu Gemm
    GlobalAveragePool GlobalMaxPool GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization
    LayerNormalization LeakyRelu LogSoftmax MatMul MaxPool Mean Min Max Mish Mul Neg PRelu Pad Pow ReduceMean ReduceSum
    Relu Reshape Sigmoid Softmax Softplus Squeeze Sub Sum Swish Tanh Transpose Unsqueeze LinearClassifier
    LinearRegressor Scaler
    """.split()
)


def load(case):
    """Model, inputs and results of a test's first data set; none where they are no tensors."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    inputs, outputs = case.data_sets[0]
    are_tensors = all(isinstance(value, numpy.ndarray | numpy.generic) for value in [*inputs, *outputs])
    if not are_tensors:
        return model, None, None
    return model, [numpy.asarray(value) for value in inputs], [numpy.asarray(value) for value in outputs]


def sample_input(model, inputs):
    """The input that is data: the first one. The others become initializers."""
    graph = model.graph
    for info, value in list(zip(graph.input, inputs))[1:]:
        graph.initializer.append(numpy_helper.from_array(value, info.name))
        graph.input.remove(info)
    return inputs[0]


def run(command, case, tolerance):
    model, inputs, outputs = load(case)
    if inputs is None or outputs is None or not inputs:
        return "values that are no tensors"
    kinds = {value.dtype.kind for value in inputs[:1] + outputs[:1]}
    if kinds != {"f"}:
        return "values that are no floats"
    x = sample_input(model, inputs)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.onnx"
        onnx.save(model, path)
        try:
            got = infer(command, folder, path, x.astype(numpy.float64))
        except Refused as refused:
            return str(refused)
    difference = largest_difference(got, outputs[0].astype(numpy.float64))
    return None if difference <= tolerance else f"WRONG: differs by {difference:.2e} {got.shape} {outputs[0].shape}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", required=True)
    parser.add_argument("--tolerance", type=float, default=1e-3, help="ONNX's own by default")
    parser.add_argument("--only", default="", help="a regular expression for names of tests")
    arguments = parser.parse_args()
    passed, refused = collections.Counter(), collections.Counter()
    wrong = []
    with warnings.catch_warnings():
        # The package computes its cases when they are loaded, overflows among them.
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    for case in cases:
        if not re.search(arguments.only, case.name):
            continue
        operators = {node.op_type for node in case.model.graph.node}
        if len(operators) != 1 or not operators <= SUPPORTED:
            continue
        (operator,) = operators
        why = run(arguments.command, case, arguments.tolerance)
        if why is None:
            passed[operator] += 1
        else:
            refused[operator] += 1
            print(f"{case.name}: {why}")
            if why.startswith("WRONG"):
                wrong.append(case.name)
    for operator in sorted(passed | refused):
        print(f"{operator:24} {passed[operator]:3} pass, {refused[operator]:3} out")
    print(f"{passed.total()} pass, {refused.total()} are out with a reason, {len(wrong)} of them wrong: {wrong}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
