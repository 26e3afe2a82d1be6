"""Short stories from original skeletons: the animal decides the story, names and places are the user's."""

from __future__ import annotations

from .example import Example, asked
from .source import Source

NAME = "story"
RANGE = "one story for each of 8 animals, about a person and a place of the user's choice"

STORIES = {
    "fox": "{name} walked through {place} on a cold morning. A fox sat by the bridge and looked very hungry. {name} "
    "gave it half of the bread. The fox took it, bowed its head and ran off. From that day on, a small gift "
    "lay at the door of {name} every Sunday.",
    "owl": "Every night {name} heard an owl above the roofs of {place}. The owl always called three times. One "
    "evening it called only twice, so {name} went out to look. The owl had lost a feather and was too proud "
    "to say so. {name} found it under the old clock, and the third call came back.",
    "bear": "There was only one bear in {place}, and nobody had ever seen it. {name} put a jar of honey on the wall "
    "and waited. At midnight the bear came, ate the honey and washed the jar. In the morning {name} found a "
    "note: thank you, a little more next time.",
    "cat": "The cat of {name} knew every street of {place}. When it rained it slept in the library, and when the sun "
    "was out it slept on the stairs. One day {name} followed it the whole day long. In the evening both of "
    "them were tired, and only one of them had learned anything.",
    "dog": "{name} had a dog that could not bark. In {place} people laughed about it. Then one night the river rose, "
    "and the dog pulled at every door until all were awake. Nobody laughed after that, and {name} was very "
    "proud.",
    "mouse": "A mouse lived in the theatre of {place}. It knew every play by heart. When {name} forgot a line on the "
    "stage, a tiny voice said it from below. The people clapped for a long time. {name} shared the flowers "
    "and the cheese with the mouse.",
    "crow": "A crow in {place} collected shiny things. {name} had lost a key and asked the crow for help. The crow "
    "wanted a silver button first. {name} gave it the best one, and the crow brought the key, a spoon and a "
    "ring. The ring is still looking for its owner.",
    "horse": "{name} found an old horse at the edge of {place}. It could not run any more, but it knew the way to the "
    "sea. They walked for two days and talked about the weather. When they saw the waves, the horse was young "
    "again for one hour.",
}

_QUESTIONS = (
    "Tell me a story about {name} and {a} {animal} in {place}.",
    "Write a short story about {name} and {a} {animal} in {place}.",
    "Tell a story with {name}, {a} {animal} and the town of {place}.",
)


def make(source: Source) -> Example:
    """The story of the animal, with this name and this place."""
    animal, name, place = source.pick(tuple(STORIES)), source.name(), source.place()
    question = source.pick(_QUESTIONS).format(name=name, animal=animal, place=place, a="an" if animal == "owl" else "a")
    return asked(NAME, question, STORIES[animal].format(name=name, place=place), f"{animal} {name} {place}")
