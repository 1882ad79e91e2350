from __future__ import annotations

import torch

from lacoot_deploy.transport import buffers

CPU = torch.device("cpu")


def test_memory_is_used_again_only_after_the_last_reference_is_gone() -> None:
    first = buffers.empty((512, 1024), torch.float32, CPU)
    address, view = first.data_ptr(), first[3:].t()
    del first
    assert buffers.empty((512, 1024), torch.float32, CPU).data_ptr() != address
    del view
    assert address in {
        t.data_ptr() for t in [buffers.empty((512, 1024), torch.float32, CPU) for _ in range(3)]
    }


def test_any_type_of_the_same_size_can_use_it() -> None:
    address = buffers.empty((512, 1031), torch.float32, CPU).data_ptr()
    half = buffers.empty((1024, 1031), torch.bfloat16, CPU)
    assert half.data_ptr() == address
    assert half.shape == (1024, 1031)
    assert half.dtype == torch.bfloat16


def test_what_is_kept_is_bounded() -> None:
    held = [buffers.empty((50 << 20,), torch.uint8, CPU) for _ in range(8)]
    del held
    assert sum(memory.size for memory in buffers._free) <= buffers.KEPT_BYTES


def test_small_tensors_come_from_torch() -> None:
    before = len(buffers._free)
    tensor = buffers.empty((4, 4), torch.float32, CPU)
    del tensor
    assert len(buffers._free) == before
