"""Crews that remember: CrewAI's memory, its embedder offline, its model calls on the server."""

from __future__ import annotations

from typing import Any

from crewai import Crew, Task
from crewai.memory.memory_scope import MemoryScope, MemorySlice
from crewai.memory.unified_memory import Memory
from crewai.rag.embeddings.providers.custom.custom_provider import CustomProvider
from crewai.rag.embeddings.providers.custom.embedding_callable import CustomEmbeddingFunction

from tests.integration.parts import Mode, go
from tests.integration.shape_trials import Scene, shape
from tests.memory_script import LONG, embed, of_memory, remembering
from tests.openai_server import Rule, answer, use


class Embedder(CustomEmbeddingFunction):
    """`embed` as an embedder that a crew's configuration names."""

    def __call__(self, input: Any) -> Any:
        """Embed several texts."""
        return embed(list(input))

    @staticmethod
    def name() -> str:
        """What chromadb keeps with a collection."""
        return "default"


EMBEDDER: Any = CustomProvider(embedding_callable=Embedder)


WORK = (
    Rule(use("charge", {"amount": 7}), answer("charged seven"), task="Pay"),
    Rule(answer("all told"), task="Tell"),
)


def records(scene: Scene) -> list[str]:
    """What the memories of a scene hold."""
    held = Memory(storage=str(scene.folder / "memory"), embedder=embed, llm=scene.llm())
    return [f"{one.scope}: {one.content}" for one in held.list_records()]


def memory_of(scene: Scene, **options: Any) -> Memory:
    """A memory in the scene's folder."""
    given = {"storage": str(scene.folder / "memory"), "embedder": embed, "llm": scene.llm()}
    return Memory(**{**given, **options})


def two_tasks(scene: Scene, *agents: Any) -> list[Task]:
    """One that charges, one that tells."""
    pay = Task(name="pay", description=f"Pay. {LONG}", expected_output="o", agent=agents[0])
    tell = Task(name="tell", description=f"Tell. {LONG}", expected_output="o", agent=agents[-1])
    return [pay, tell]


def _and_saved(crew: Crew, mode: Mode, given: dict[str, Any]) -> Any:
    """Kick off; older releases return while the memories of agents are still being saved."""
    result = go(crew, mode, **given)
    for memory in (crew._memory, *(agent.memory for agent in crew.agents)):
        backing = getattr(memory, "_memory", None) or memory
        if isinstance(backing, Memory):
            backing.drain_writes()
    return result


@shape(spared=of_memory, also=records, kickoff=_and_saved, few=True)
def crew_memory(scene: Scene) -> Crew:
    """`memory=True`, with the embedder of the crew's configuration."""
    scene.script(remembering(*WORK))
    agents = [scene.agent("Cashier", scene.charge), scene.agent("Teller")]
    return Crew(
        name="m",
        agents=agents,
        tasks=two_tasks(scene, *agents),
        memory=True,
        embedder=EMBEDDER,
    )


@shape(spared=of_memory, also=records, kickoff=_and_saved, few=True)
def given_memory(scene: Scene) -> Crew:
    """A memory of the user's own, and a view of it that one agent has for itself."""
    scene.script(remembering(*WORK))
    memory = memory_of(scene, root_scope="/ours")
    scoped = MemoryScope(memory=memory, root_path="/teller")
    agents = [scene.agent("Cashier", scene.charge), scene.agent("Teller", memory=scoped)]
    return Crew(agents=agents, tasks=two_tasks(scene, *agents), memory=memory)


@shape(spared=of_memory, also=records, kickoff=_and_saved, few=True)
def sliced_memory(scene: Scene) -> Crew:
    """An agent that remembers, and one that only reads several scopes."""
    scene.script(remembering(*WORK))
    memory = memory_of(scene)
    slice_ = MemorySlice(memory=memory, scopes=["/facts", "/other"], read_only=True)
    agents = [
        scene.agent("Cashier", scene.charge, memory=memory),
        scene.agent("Teller", memory=slice_),
    ]
    return Crew(agents=agents, tasks=two_tasks(scene, *agents))


@shape(spared=of_memory, also=records, kickoff=_and_saved, few=True)
def memory_tools(scene: Scene) -> Crew:
    """An agent that searches its memory and saves to it with CrewAI's own tools."""
    saving = {"contents": ["the sea is wide", "the sea is deep"]}
    scene.script(
        remembering(
            Rule(
                use("save_to_memory", saving),
                use("search_memory", {"queries": ["the sea"]}),
                answer("wide and deep"),
                task="Remember",
            )
        )
    )
    one = scene.agent("A", memory=memory_of(scene))
    task = Task(description="Remember", expected_output="o", agent=one)
    return Crew(agents=[one], tasks=[task])
