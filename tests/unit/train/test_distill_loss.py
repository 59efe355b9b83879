"""The distillation loss against plain loops, the full KL and numerical gradients."""

import math

import pytest
import torch

from rmx.train.distillation import TeacherRows, teacher_rows, topk_kl

V, N = 11, 6


def rows(seed: int, size: float = 2.0, n: int = N) -> torch.Tensor:
    return size * torch.randn(n, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row: list[float]) -> list[float]:
    high = max(row)
    e = [math.exp(x - high) for x in row]
    return [x / sum(e) for x in e]


def loop_kl(teacher: list[float], student: list[float], k: int, tail: str) -> float:
    """The definition, written with lists."""
    p, q = softmax(teacher), softmax(student)
    kept = sorted(range(len(p)), key=lambda v: -p[v])[:k]
    if tail == "renormalise":
        mass = sum(p[v] for v in kept)
        return sum(p[v] / mass * math.log(p[v] / mass / q[v]) for v in kept)
    total = sum(p[v] * math.log(p[v] / q[v]) for v in kept)
    rest_p, rest_q = sum(p) - sum(p[v] for v in kept), sum(q[v] for v in range(len(q)) if v not in kept)
    return total + (rest_p * math.log(rest_p / rest_q) if k < len(p) else 0.0)


def full_kl(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    p = teacher.log_softmax(-1)
    return (p.exp() * (p - student.log_softmax(-1))).sum(-1)


def kept(logits: torch.Tensor, k: int) -> TeacherRows:
    """As `teacher_rows`, in fp64."""
    found = teacher_rows(logits, k)
    logp = logits.log_softmax(-1)
    rest = logp.scatter(-1, found.ids, -torch.inf).logsumexp(-1)
    return TeacherRows(found.ids, logp.gather(-1, found.ids), rest)


@pytest.mark.parametrize("tail", ["renormalise", "bucket"])
@pytest.mark.parametrize("k", [1, 3, V])
def test_it_is_the_definition(tail, k):
    teacher, student = rows(0), rows(1)
    found = topk_kl(student, kept(teacher, k), tail)
    for got, p, q in zip(found.tolist(), teacher.tolist(), student.tolist(), strict=True):
        assert got == pytest.approx(loop_kl(p, q, k, tail), abs=1e-12)


def test_the_bucket_is_a_lower_bound_that_rises_to_the_full_kl():
    teacher, student = rows(2), rows(3)
    full = full_kl(teacher, student)
    before = torch.zeros(N, dtype=torch.float64)
    for k in range(1, V + 1):
        found = topk_kl(student, kept(teacher, k), "bucket")
        assert (found <= full + 1e-12).all()
        assert (found >= before - 1e-12).all()  # a finer partition of the outcomes can only raise it
        before = found
    assert torch.allclose(before, full)
    assert (topk_kl(student, kept(teacher, 3), "bucket") < full - 0.01).any()


def test_renormalising_differs_from_the_full_kl_to_either_side():
    teacher, student = rows(4, n=40), rows(5, n=40)
    found = topk_kl(student, kept(teacher, 3), "renormalise") - full_kl(teacher, student)
    assert (found > 0.05).any()
    assert (found < -0.05).any()
    whole = topk_kl(student, kept(teacher, V), "renormalise")
    assert torch.allclose(whole, full_kl(teacher, student))  # with every token kept there is no tail


def test_the_same_distribution_is_0_in_the_bucket_and_not_renormalised():
    logits = rows(6)
    assert topk_kl(logits, kept(logits, 4), "bucket").abs().max() < 1e-12
    mass = kept(logits, 4).logp.logsumexp(-1)
    assert torch.allclose(topk_kl(logits, kept(logits, 4), "renormalise"), -mass)  # what the student has outside
    assert (-mass > 0.01).any()


@pytest.mark.parametrize("tail", ["renormalise", "bucket"])
@pytest.mark.parametrize("k", [1, 4, V])
def test_gradients_are_the_numerical_ones(tail, k):
    teacher, student = kept(rows(7), k), rows(8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: topk_kl(x, teacher, tail), (student,))


def test_the_gradient_is_student_minus_teacher():
    """d KL / d logits = q - p where all tokens are kept, and q - p' renormalised."""
    teacher, student = rows(9), rows(10).requires_grad_()
    topk_kl(student, kept(teacher, V), "bucket").sum().backward()
    assert torch.allclose(student.grad, student.detach().softmax(-1) - teacher.softmax(-1))
    student.grad = None
    few = kept(teacher, 3)
    topk_kl(student, few, "renormalise").sum().backward()
    p = torch.zeros_like(teacher).scatter(-1, few.ids, few.logp.exp())
    assert torch.allclose(student.grad, student.detach().softmax(-1) - p / p.sum(-1, keepdim=True))


def test_the_bucket_leaves_the_shape_of_the_tail_alone():
    """Outside of the K tokens the gradient is in proportion to the student's own probabilities."""
    teacher, student = rows(11), rows(12).requires_grad_()
    few = kept(teacher, 3)
    topk_kl(student, few, "bucket").sum().backward()
    ratio = student.grad / student.detach().softmax(-1)
    outside = torch.ones_like(ratio, dtype=torch.bool).scatter(-1, few.ids, False)
    for row, where in zip(ratio, outside, strict=True):
        assert torch.allclose(row[where], row[where][0].expand(V - 3))


def test_what_is_kept_of_a_teacher():
    found = teacher_rows(torch.tensor([[0.0, 3.0, 1.0, 2.0]]), 2)
    p = softmax([0.0, 3.0, 1.0, 2.0])
    assert found.ids.tolist() == [[1, 3]]
    assert found.logp.exp().tolist()[0] == pytest.approx([p[1], p[3]])
    assert found.rest.exp().item() == pytest.approx(p[0] + p[2])
    assert len(found.rest) == 1


def test_a_tiny_rest_keeps_its_digits():
    logits = torch.tensor([[40.0, 0.0, 0.0]])
    assert teacher_rows(logits, 1).rest.item() == pytest.approx(math.log(2) - 40, rel=1e-6)


@pytest.mark.parametrize("tail", ["renormalise", "bucket"])
def test_a_token_that_the_teacher_excludes_adds_nothing_and_no_nan(tail):
    teacher = torch.tensor([[1.0, 0.0, -torch.inf, -torch.inf]])
    student = torch.zeros(1, 4, requires_grad=True)
    found = topk_kl(student, teacher_rows(teacher, 3), tail)
    found.backward()
    assert found.item() == pytest.approx(loop_kl([1.0, 0.0], [0.0, 0.0], 2, "bucket") + math.log(2), abs=1e-6)
    assert torch.isfinite(student.grad).all()


def test_more_tokens_than_there_are():
    found = teacher_rows(rows(0), 64)
    assert found.ids.shape == (N, V)
    assert (found.rest == -torch.inf).all()
