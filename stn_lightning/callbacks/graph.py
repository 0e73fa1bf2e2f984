"""A network as TensorBoard's page "Graphs" shows it: which operation takes what from which, module
within module.

`SummaryWriter.add_graph` goes through torch.jit.trace, where sizes are tensors: it does not get
through a sampler that computes with them.
Here a picture goes through the network as it is, and what PyTorch is asked for on the way is
written down.
"""

from typing import Any

import torch
from tensorboard.compat.proto.attr_value_pb2 import AttrValue
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary


def trace_graph(network: nn.Module, image: Tensor) -> GraphDef:
    """The graph of `network(image)`, which is computed once, in evaluation. Neither the network nor
    random numbers are other ones after it.

    Args:
        network: as it is trained, its lazy layers with their sizes; of compiled parts the graph is
            what was compiled.
        image: on the network's device.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    keep_random = torch.random.fork_rng([image.device] if image.device.type == "cuda" else [])
    try:
        with (
            keep_random,
            torch.no_grad(),
            torch.compiler.set_stance("force_eager"),
            _Recorder(network, image) as recorder,
        ):
            network(image)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return recorder.graph


class _Recorder(TorchDispatchMode):
    """Makes a node of each operation, of the image, and of each parameter and buffer at its first
    use.
    """

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = GraphDef()
        self.names: set[str] = set()
        self.sources = WeakTensorKeyDictionary()
        self.modules = {module: name for name, module in network.named_modules()}
        self.scopes: list[str] = []
        self.stored = WeakTensorKeyDictionary()
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            self.stored[tensor] = name
        self._add("image", "image", [], [image])

    def __enter__(self) -> "_Recorder":
        self.handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *problem: Any) -> None:
        super().__exit__(*problem)  # type: ignore[no-untyped-call]
        for handle in self.handles:
            handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [
            self._source(value)
            for value in tree_leaves((args, kwargs))
            if isinstance(value, Tensor)
        ]
        result = func(*args, **(kwargs or {}))
        operation = func.overloadpacket.__name__.strip("_")
        outputs = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        if outputs:
            self._add(
                ".".join(filter(None, [*self.scopes[-1:], operation])), operation, inputs, outputs
            )
        return result

    def _source(self, tensor: Tensor) -> str:
        """The node, and which of its outputs, that a tensor is from."""
        if tensor not in self.sources:
            self._add(
                self.stored.get(tensor, "constant"),
                "parameter" if tensor in self.stored else "constant",
                [],
                [tensor],
            )
        return str(self.sources[tensor])

    def _add(self, name: str, operation: str, inputs: list[str], outputs: list[Tensor]) -> None:
        name = name.replace(".", "/")
        free, n = name, 0
        while free in self.names:
            free, n = f"{name}_{n + 1}", n + 1
        self.names.add(free)
        shapes = [
            TensorShapeProto(dim=[TensorShapeProto.Dim(size=side) for side in output.shape])
            for output in outputs
        ]
        attributes = {"_output_shapes": AttrValue(list=AttrValue.ListValue(shape=shapes))}
        self.graph.node.append(NodeDef(name=free, op=operation, input=inputs, attr=attributes))
        for n, output in enumerate(outputs):
            self.sources[output] = f"{free}:{n}" if n else free

    def _enter(self, module: nn.Module, _: Any) -> None:
        self.scopes.append(self.modules.get(module, self.scopes[-1] if self.scopes else ""))

    def _leave(self, module: nn.Module, *_: Any) -> None:
        self.scopes.pop()
