"""What the demonstration model understands: a small grammar of phrases, and the voices that speak them.

Phrases are lower-case, without punctuation, numbers spelled out. Some phrases and some voices are never
trained on; the evaluation and the tests use only those. This module is pure: chance is passed in.
"""

import random
import re
import zlib
from collections.abc import Iterator, Sequence

_NAMES = ("mum", "dad", "anna", "tom", "sarah", "peter", "lucy")

# Slots in braces are filled by a line of the slot of that name.
# fmt: off
SLOTS: dict[str, Sequence[str]] = {
    "name": _NAMES,
    "person": (*_NAMES, "the doctor", "the dentist", "the bank"),
    "item": (
        "milk", "eggs", "bread", "butter", "cheese", "apples", "coffee", "tea", "sugar", "rice", "tomatoes",
        "batteries", "flowers", "cat food",
    ),
    "day": ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    "when": (
        "today", "tomorrow", "tonight", "this evening", "tomorrow morning", "next week",
        "on {day}", "on {day}", "on {day}", "on {day}", "on {day}", "on {day}",
    ),
    "digit": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "digits": ("{digit} {digit} {digit}", "{digit} {digit} {digit} {digit}"),
    "guests": ("two", "three", "four", "five", "six", "seven", "eight"),
    "number": (
        "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "fifteen",
        "twenty", "thirty", "forty", "fifty",
    ),
    "hour": (
        "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    ),
    "minutes": ("fifteen", "thirty", "forty five"),
    "time": ("{hour}", "{hour} {minutes}", "{hour} in the {half_day}"),
    "half_day": ("morning", "evening"),
    "thing": ("parcel", "keys", "car", "laundry", "report", "book", "phone", "passport"),
    "sendable": ("report", "book", "parcel"),
    "bill": ("rent", "gas bill", "phone bill", "water bill"),
    "room": ("kitchen", "garden", "office", "bedroom"),
    "currency": ("dollars", "euros", "pounds"),
    "chore": (
        "water the plants", "feed the cat", "walk the dog", "take out the rubbish", "clean the kitchen",
        "charge the phone",
    ),
    "task": (
        "{contact} {person}", "buy {item}", "buy {item} and {item}", "pick up the {thing}", "pay the {bill}",
        "{chore}", "send the {sendable} to {name}", "book a table for {guests}",
        "fix the {repair_place} {repair_thing}",
    ),
    "contact": ("call", "email", "ring"),
    "repair_place": ("car", "garden", "kitchen"),
    "repair_thing": ("light", "door"),
    "switch": ("on", "off"),
    "saying": (
        "hello world", "thank you", "yes please", "no thank you", "new note", "delete the last note",
        "what is the weather tomorrow", "this is a test", "one two three", "good morning", "stop",
        "yes", "no",
    ),
    # A line that stands more than once is drawn more often.
    "phrase": (
        "remind me to {task} {when}", "remind me to {task} {when}", "remind me to {task} {when}",
        "remind me to {task} at {time}", "{task} {when}", "{task}", "buy {item} {item} and {item}",
        "add {item} and {item} to the shopping list", "set a timer for {number} minutes",
        "set an alarm for {number} minutes", "set an alarm for {time}",
        "meeting with {person} on {day} at {time}", "note to self {task}",
        "{name} owes me {number} {currency}", "the code is {digits}", "the code is {digits}",
        "turn {switch} the {room} light", "move the meeting to {day} {half_day}", "{saying}",
    ),
}
# fmt: on

# The sentences of the demonstration and of the end-to-end tests: always held out.
CANONICAL: tuple[str, ...] = (
    "buy milk tomorrow",
    "buy milk and eggs",
    "remind me to call mum tomorrow",
    "set a timer for ten minutes",
    "meeting with anna on friday at three thirty",
    "the code is four seven one nine",
    "remind me to pick up the parcel on thursday",
    "note to self water the plants",
)

HELD_OUT_PERCENT = 15
# One- and two-word phrases are too few to hold any back: the model could not know the words.
HELD_OUT_MIN_WORDS = 3

# fmt: off
ACCENTS: tuple[str, ...] = (
    "en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029",
    "en-us-nyc",
)
TRAINING_VARIANTS: tuple[str, ...] = (
    "m1", "m2", "m3", "m4", "m6", "m7", "m8", "f1", "f2", "f3", "f5", "Andy", "Alex", "Annie", "Alicia",
    "Denis", "Hugo", "Mike", "Gene", "adam", "belinda", "boris", "david", "john", "paul", "rob", "robert",
    "max", "klatt", "klatt2", "klatt3", "klatt5", "ed", "pablo", "norbert", "steph2", "travis", "zac",
)
# fmt: on
HELD_OUT_VARIANTS: tuple[str, ...] = ("m5", "f4", "linda", "michael", "Lee", "Andrea", "quincy", "klatt4")

# espeak-ng's default speakers: what anybody who tries the demonstration by hand hears. They are trained on.
PLAIN_VOICES: tuple[str, ...] = ("en-us", "en-gb")
TRAINING_VOICES: tuple[str, ...] = (
    *PLAIN_VOICES,
    *(f"{accent}+{variant}" for accent in ACCENTS for variant in TRAINING_VARIANTS),
)
HELD_OUT_VOICES: tuple[str, ...] = tuple(f"{accent}+{variant}" for accent in ACCENTS for variant in HELD_OUT_VARIANTS)

_SLOT = re.compile(r"\{(\w+)\}")


def random_phrase(chance: random.Random, template: str = "{phrase}") -> str:
    """A phrase of the grammar; each slot of the template is filled by one of its lines, and so on."""
    return _SLOT.sub(lambda match: random_phrase(chance, chance.choice(SLOTS[match[1]])), template)


def vocabulary() -> list[str]:
    """Every word that a phrase can contain, sorted."""
    lines = (line for slot in SLOTS.values() for line in slot)
    return sorted({word for line in lines for word in _SLOT.sub(" ", line).split()})


def random_words(chance: random.Random, words: Sequence[str]) -> str:
    """One to six words in no order: these teach the ear, not the grammar."""
    return " ".join(chance.choice(words) for _ in range(chance.randint(1, 6)))


def held_out(phrase: str) -> bool:
    """Whether training must never hear this phrase. Decided by the text alone, so no list can drift."""
    if phrase in CANONICAL:
        return True
    chosen = zlib.crc32(phrase.encode()) % 100 < HELD_OUT_PERCENT
    return chosen and len(phrase.split()) >= HELD_OUT_MIN_WORDS


def held_out_phrases(count: int, seed: int) -> Iterator[str]:
    """`count` different held-out phrases, the same ones for the same seed; none of them canonical."""
    chance = random.Random(seed)
    seen: set[str] = set(CANONICAL)
    while count > 0:
        phrase = random_phrase(chance)
        if held_out(phrase) and phrase not in seen:
            seen.add(phrase)
            count -= 1
            yield phrase


def training_phrase(chance: random.Random, words: Sequence[str]) -> str:
    """A phrase that is not held out; about a third of them are random words."""
    while True:
        phrase = random_words(chance, words) if chance.random() < 0.3 else random_phrase(chance)
        if not held_out(phrase):
            return phrase
