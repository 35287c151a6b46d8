"""The average in one kernel: the same numbers as torch's lerp, on a GPU and in Triton's interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from asr_emapl.ema import EmaTeacher

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

INTERPRETED = """
import contextlib
import torch
from asr_emapl.fused_average import FusedAverage
torch.cuda.device = lambda device: contextlib.nullcontext()
torch.manual_seed(0)
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    z = [torch.randn(size) for size in ((5000,), (7, 3), (4096,), (1,))]
    theta = [torch.randn_like(t).to(dtype) for t in z]
    expected = [a.lerp(b.float(), 0.25) for a, b in zip(z, theta)]
    average = FusedAverage(z, theta)
    average(0.25)
    for found, wanted in zip(z, expected):
        torch.testing.assert_close(found, wanted, rtol=0.0, atol=3e-7)
    theta[1].data = torch.ones_like(theta[1])  # other memory
    before = z[1].clone()
    average(0.5)
    torch.testing.assert_close(z[1], before.lerp(torch.ones_like(before), 0.5), rtol=0.0, atol=3e-7)
"""


def test_the_kernel_in_the_interpreter():
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env={"TRITON_INTERPRET": "1", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_can_be_fused():
    pytest.importorskip("triton")
    from asr_emapl.fused_average import fused_average

    assert fused_average([], []) is None
    assert fused_average([torch.ones(4)], [torch.ones(4)]) is None  # not on a GPU


@pytest.mark.gpu
@needs_gpu
class TestOnTheGpu:
    def model(self, dtype=torch.float32):
        torch.manual_seed(0)
        layers = [
            nn.Linear(300, 700),
            nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last),
            nn.LayerNorm(7),
        ]
        return nn.Sequential(*layers).to("cuda", dtype)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_as_the_reference(self, dtype):
        student = self.model(dtype)
        teacher = EmaTeacher(student, half_life=10.0)
        assert teacher._fused is not None
        expected = {name: p.detach().clone() for name, p in teacher.module.named_parameters()}
        for step in range(5):
            with torch.no_grad():
                for p in student.parameters():
                    p.add_(torch.randn_like(p))
            teacher.update(1.0 + step)
            for name, p in student.named_parameters():
                rho = 2.0 ** (-(1.0 + step) / 10.0)
                expected[name] = rho * expected[name] + (1.0 - rho) * p.float()
        for name, p in teacher.module.named_parameters():
            torch.testing.assert_close(p, expected[name], rtol=1e-5, atol=1e-5)

    def test_a_student_with_other_memory_is_followed(self):
        student = self.model()
        teacher = EmaTeacher(student, half_life=1.0)
        state = {name: torch.ones_like(t) for name, t in student.state_dict().items()}
        student.load_state_dict(state, assign=True)
        teacher.follow(student)
        for _ in range(60):
            teacher.update(1.0)
        for p in student.cpu().cuda().parameters():
            p.data = torch.full_like(p, 2.0)
        for _ in range(60):
            teacher.update(1.0)
        assert all(bool((p == 2.0).all()) for p in teacher.module.parameters())

    def test_what_does_not_fit_takes_the_other_way(self):
        student = nn.Linear(8, 8, device="cuda")
        student.weight.data = torch.randn(8, 16, device="cuda")[:, ::2]
        teacher = EmaTeacher(student, half_life=1.0)
        assert teacher._fused is None
        teacher.update(1.0)

    def test_no_synchronisation(self):
        student = self.model()
        teacher = EmaTeacher(student, half_life=10.0)
        teacher.update(1.0)
        torch.cuda.set_sync_debug_mode("error")
        try:
            teacher.update(1.0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
