"""Models that judge: hardened, so that what they are asked is a step of the run it is asked in."""

from __future__ import annotations

from typing import Any

from crewai.llms.base_llm import BaseLLM
from crewai.utilities.llm_utils import create_llm

from crewai_prod._crewai.llm import harden_llm
from crewai_prod.errors import UsageError


def judge(model: Any) -> Any:
    """A model, or the one of a name, whose calls belong to the run they are made in.

    What is no model of CrewAI stays: what it is asked is nobody's bill.

    Raises:
        UsageError: There is no model of this name.
    """
    made = create_llm(model) if isinstance(model, str) else model
    if made is None:
        raise UsageError(f"{model!r} is no model.")
    return harden_llm(made) if isinstance(made, BaseLLM) else made
