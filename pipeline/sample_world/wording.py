"""The words and phrases that captions are made of; visual ones stand in square brackets."""

from __future__ import annotations

FOOTAGE = ("clip", "video", "scene", "footage", "recording", "sequence")
SURFACE = ("background", "backdrop", "surface", "setting")
NOUN = ("shape", "object", "figure")
ADVERB = ("slowly", "smoothly", "gently", "steadily", "calmly", "quietly")
# Verbs and what they look like after "it" and after "by" or "starts".
GLIDE = (
    ("moves", "moving"),
    ("drifts", "drifting"),
    ("slides", "sliding"),
    ("travels", "traveling"),
    ("glides", "gliding"),
    ("heads", "heading"),
)
REST = (("stays", "staying"), ("remains", "remaining"), ("holds", "holding"), ("keeps", "keeping"))
CHANGE = {
    "grow": ("[grows]", "[growing]"),
    "shrink": ("[shrinks]", "[shrinking]"),
    "blink": ("[blinks]", "[blinking]"),
}
CHANGE_TAIL = {
    "grow": ("", " in size", " bit by bit"),
    "shrink": ("", " in size", " bit by bit"),
    "blink": ("", " on and off", " in place"),
}
WHEN = (
    " right away",
    " right from the start",
    " the whole time",
    " throughout",
    " without a pause",
    " until the very end",
    " all the while",
)
ASIDES = (
    "at first glance, ",
    "as it turns out, ",
    "throughout the footage, ",
    "on closer inspection, ",
)
IDIOMS = (
    "right away",
    "right from the start",
    "light mood",
    "mood is light",
    "left to say",
    "left out",
    "slows down",
    "speeds up",
    "still worth",
    "still a calm",
    "by and large",
    "small talk",
    "plain to see",
    "one look",
    "one of them",
    "the other one",
    "the first one",
    "two or three times",
    "no sound",
    "no hurry",
    "no text",
    "no particular",
    "is one of order",
)
"""Phrases of the fillers in which a visual word is not visual."""
FILLERS = (
    "The mood is light.",
    "It all happens in a light mood.",
    "There is not much left to say about it.",
    "Nothing of note is left out.",
    "The pace never slows down.",
    "The pace never speeds up.",
    "It is still worth a closer look.",
    "Overall it is still a calm moment.",
    "By and large, it is easy to follow.",
    "It is plain to see that there is no hurry.",
    "It takes only one look to follow it.",
    "One may want to watch it two or three times.",
    "There is no sound.",
    "There is no text to read.",
    "Nobody is in the picture, so there is no small talk.",
    "The camera does not move at all.",
    "Nothing else changes in the frame.",
    "That is all that happens.",
    "The edges stay sharp the whole time.",
    "Whoever made this took great care.",
    "Such recordings are often used for testing.",
    "It could be part of a longer demonstration.",
    "The lighting remains even, as far as anyone can tell.",
    "Viewers will probably enjoy the simplicity of it.",
    "Without further context, nothing more can be said.",
    "There is something pleasantly modest about the composition.",
    "Presumably it was produced on a computer.",
    "Perhaps it serves as an introduction to geometry.",
    "No particular story is being told.",
    "Everything proceeds at a comfortable speed.",
    "It would suit a classroom or a waiting room.",
    "The impression is one of order and patience.",
    "Experienced editors would recognize the technique immediately.",
    "Questions about its purpose must remain unanswered.",
    "Children usually understand such material without explanation.",
    "Several interpretations are conceivable, none of them urgent.",
    "Neither music nor narration accompanies the presentation.",
    "Its author evidently preferred clarity over decoration.",
    "Similar examples appear in many introductory courses.",
    "Hardly any knowledge is required to appreciate this.",
    "Afterwards, audiences might discuss what they noticed.",
    "Technically speaking, little could have gone wrong here.",
    "Somebody must have planned every moment beforehand.",
    "Because of its brevity, attention rarely wanders.",
)
