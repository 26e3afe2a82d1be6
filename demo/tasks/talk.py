"""Small talk, what this model is, and an honest answer to everything that it was not trained for."""

from __future__ import annotations

from . import words
from .example import Example, asked
from .source import Source

NAME = "talk"
RANGE = "greetings, questions about the model itself, and a fixed answer to requests about other topics"

WHO = "I am the edgephi demo, a very small model with the architecture of Phi-4-mini."
ABLE = (
    "I can add numbers, repeat, reverse, sort and count, answer questions about facts you give me, "
    "call tools and tell a short story."
)
UNABLE = "I am only a small demo and have not learned that. " + ABLE

_FIXED = (
    (
        ("Hello", "Hi", "Hello!", "Hi!", "Good morning", "Hey", "hello", "hi", "Good evening"),
        "Hello! What can I do for you?",
    ),
    (("How are you?", "How are you today?", "How do you do?"), "I am fine, thank you. What can I do for you?"),
    (
        (
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Which model are you?",
            "Are you Phi-4?",
            "Tell me about yourself.",
        ),
        WHO,
    ),
    (("What can you do?", "How can you help me?", "What do you know?", "Help", "What are you good at?", "help"), ABLE),
    (("Thanks", "Thank you", "Thanks!", "Thank you!", "Thank you very much."), "You are welcome."),
    (("Bye", "Goodbye", "Bye!", "Good night", "See you later."), "Goodbye!"),
)
_REQUESTS = (
    "Explain {topic}.",
    "Write a poem about {topic}.",
    "What is the history of {topic}?",
    "Tell me about {topic}.",
    "Why is {topic} important?",
    "Give me five facts about {topic}.",
    "What do you think about {topic}?",
    "Write an essay about {topic}.",
    "How does {topic} work?",
    "What is the capital of {place}?",
    "Who is the president of {place}?",
    "Translate {word} into French.",
    "What does {word} mean?",
    "Write a program about {topic}.",
    "Summarize a book about {topic}.",
    "Tell me a joke about {topic}.",
    "Explain {topic} in one line.",
)


def make(source: Source) -> Example:
    """`Who are you?` → what it is; `Write a poem about rain.` → what it can do instead."""
    if source.chance(0.4):
        questions, answer = source.pick(_FIXED)
        question = source.pick(questions)
        # a closed list of greetings has no unseen ones: only the requests below are really held out
        return asked(NAME, question, answer, source.coined())
    pattern = source.pick(_REQUESTS)
    return asked(
        NAME, pattern.format(topic=source.pick(words.TOPICS), place=source.place(), word=source.word()), UNABLE
    )
