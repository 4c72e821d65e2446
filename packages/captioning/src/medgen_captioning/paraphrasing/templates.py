"""Frames of whole sentences that ask for a picture or describe one."""

import re
from random import Random

from medgen_captioning.clinical_facts import ClinicalFacts, Statement
from medgen_captioning.paraphrasing.noun_phrases import (
    NounPhrase,
    can_be_said,
    join_words,
    say,
    say_name,
    with_article,
)

_VERBS = (
    "Generate",
    "Create",
    "Produce",
    "Make",
    "Render",
    "Synthesize",
    "Provide",
    "Draw",
    "Show",
    "Compose",
    "Present",
)
_PICTURES = ("image", "picture", "frame", "view")
_RELATIONS = (
    *("showing", "displaying", "depicting", "featuring", "containing", "with", "that shows", "that contains"),
    *("that includes", "that features", "that displays", "presenting", "that depicts"),
)
_SEEN = ("visible", "present", "in view")
_ADDED = (" and ", " together with ", " as well as ", " along with ", " and also ")
_ARTEFACTS = frozenset(["text", "box artefact"])
_BRITISH = (
    (r"olor(?=s|ed|\b)", "olour"),
    (r"center", "centre"),
    (r"\besophag", "oesophag"),
    (r"artifact", "artefact"),
    (r"\bcecum", "caecum"),
    (r"\bcecal", "caecal"),
    (r"\bgray", "grey"),
    (r"meters\b", "metres"),
    (r"ynthesize", "ynthesise"),
    (r"isualize", "isualise"),
)


def can_be_phrased(facts: ClinicalFacts) -> bool:
    """Return whether the frames have words for all that a sentence states."""
    nothing_else = not (facts.sides or facts.structures or facts.qualifiers or facts.numbers)
    procedures = facts.procedures <= {"colonoscopy", "endoscopy", "gastroscopy"}
    something = bool(facts.statements or facts.procedures - {"endoscopy"})
    return something and nothing_else and procedures and all(can_be_said(each) for each in facts.statements)


def phrase(facts: ClinicalFacts, random: Random) -> str:
    """Return one sentence that states the facts, drawn at random from all frames and words.

    Args:
        facts: What to state; see `can_be_phrased`.
        random: Generator of the choices.
    """
    picture = random.choice(_PICTURES)
    named = _picture_name(facts, picture, random)
    if not facts.statements:
        text = _of_procedure(facts, picture, random)
    elif len(facts.statements) == 1 and not facts.statements[0].present:
        text = _of_absence(facts.statements[0], named, random)
    elif len(facts.statements) == 1:
        text = _of_one(facts.statements[0], picture, named, random)
    else:
        text = _request(
            f"{with_article(named)} {random.choice(_RELATIONS[:6])} {_all(facts, picture, random)}", random
        )
    text = re.sub(r"\s+", " ", text).strip()
    return f"{text[0].upper()}{british(text[1:]) if random.random() < 0.4 else text[1:]}."


def british(text: str) -> str:
    """Return a text of this package's American words in British spelling.

    >>> british("a gray esophagus in the center, with the color red")
    'a grey oesophagus in the centre, with the colour red'
    """
    for american, spelling in _BRITISH:
        text = re.sub(american, spelling, text)
    return text


def _picture_name(facts: ClinicalFacts, picture: str, random: Random) -> str:
    procedure = next(iter(facts.procedures - {"endoscopy"}), None)
    if procedure:
        return f"{procedure} {picture}"
    if picture in ("frame", "view"):
        return f"endoscopic {picture}"
    kinds = ("", "", "medical ", "endoscopic ", "endoscopy ")
    return f"{'endoscopic ' if facts.procedures else random.choice(kinds)}{picture}"


def _request(pictured: str, random: Random) -> str:
    """Ask for a picture, or just name it."""
    # The data set's own opening; with it a paraphrase might repeat another prompt.
    plain = pictured.startswith("an image")
    stem = next(
        (stem for stem in ("show", "present") if re.match(rf"(?:\w+ )+(?:that )?{stem}", pictured)), "nothing"
    )
    verbs = [v for v in _VERBS if not v.lower().startswith(stem) and not (plain and v == "Generate")]
    verb = random.choice(verbs)
    return random.choice(
        (
            f"{verb} {pictured}",
            f"{verb} {pictured}",
            f"{verb} {pictured}",
            f"Please {verb.lower()} {pictured}",
            pictured,
            f"I would like {pictured}",
            f"{verb} {pictured}",
        )
    )


def _of_procedure(facts: ClinicalFacts, picture: str, random: Random) -> str:
    procedure = next(iter(facts.procedures - {"endoscopy"}))
    what = random.choice((procedure, f"{procedure} procedure", f"{procedure} examination"))
    taken = random.choice(("taken", "captured", "recorded", "acquired", "obtained"))
    adjective = procedure.removesuffix("y") + "ic"
    named = (
        random.choice(("", "endoscopic ", *(("medical ",) if picture in ("image", "picture") else ())))
        + picture
    )
    pictured = random.choice(
        (
            f"{with_article(named)} {taken} during a {what}",
            f"{with_article(named)} {random.choice(('from', 'of'))} a {what}",
            f"{with_article(f'{procedure} {picture}')}",
            f"{with_article(f'{adjective} {picture}')}",
            f"{with_article(named)} as seen during a {what}",
        )
    )
    if random.random() < 0.15:
        return (
            f"The {named} {random.choice(('comes from', 'was taken during', 'was recorded during'))} a {what}"
        )
    return _request(pictured, random)


def _of_absence(statement: Statement, named: str, random: Random) -> str:
    name, plural = say_name(statement, random)
    verb = "are" if plural else "is"
    any_ = random.choice(("", "any "))
    pictured = random.choice(
        (
            f"{with_article(named)} without {any_}{name}",
            f"{with_article(named)} {random.choice(('free of', 'devoid of', 'free from', 'lacking'))} {any_}{name}",
            f"{with_article(named)} that does not {random.choice(('contain', 'show', 'include'))} {any_}{name}",
            f"{with_article(named)} {random.choice(('with', 'showing', 'containing', 'that has'))} no {name}",
            f"{with_article(named)} {random.choice(('in which', 'where'))} no {name} {verb} {random.choice(_SEEN)}",
            f"{with_article(named)} {random.choice(('in which', 'where'))} no {name} can be seen",
            f"{with_article(named)} {random.choice(('in which', 'where'))} {name} {verb} absent",
            f"{with_article(named)} in which there {verb} no {name}",
            f"{with_article(named)} with {random.choice(('an absence', 'a complete absence'))} of {name}",
        )
    )
    match random.randrange(8):
        case 0:
            return f"no {name} {verb} {random.choice(_SEEN[:2])} in the {named}"
        case 1:
            return f"the {named} {random.choice(('shows', 'contains', 'displays'))} no {name}"
        case _:
            return _request(pictured, random)


def _of_one(statement: Statement, picture: str, named: str, random: Random) -> str:
    said = say(statement, picture, random)
    verb = "are" if said.plural else "is"
    placed = f"{said.text} {_located(said, random)}".strip()
    bare = statement.entity in _ARTEFACTS or said.text.startswith("signs")
    relations = _RELATIONS if bare else (*_RELATIONS, "of", "of")
    match random.randrange(10):
        case 0 | 1:
            where = f"{verb} {random.choice(('located', 'situated', 'positioned', 'visible', 'seen'))} {said.place}"
            seen = random.choice((f"{verb} {random.choice(_SEEN)}", "can be seen", "can be observed"))
            pictured = f"{with_article(named)} {random.choice(('in which', 'where'))} {said.text}"
            return _request(f"{pictured} {where if said.place else seen}", random)
        case 2:
            return f"the {named} {random.choice(('shows', 'contains', 'displays', 'depicts', 'features'))} {placed}"
        case 3 if not said.place:
            return f"{_spelled_out(said.text)} {verb} {random.choice(_SEEN[:2])} in the {named}"
        case 3:
            return f"{_spelled_out(said.text)} {verb} {random.choice(('located', 'visible', 'seen'))} {said.place}"
        case 4:
            return f"{random.choice(('Depict', 'Visualize', 'Illustrate', 'Portray'))} {placed}"
        case _:
            return _request(f"{with_article(named)} {random.choice(relations)} {placed}", random)


def _located(said: NounPhrase, random: Random) -> str:
    if not said.place:
        return ""
    verb = "lie" if said.plural else "lies"
    if "finding" in said.text:
        return (
            f"{random.choice(('located', 'situated', 'positioned', f'that {verb}', 'visible'))} {said.place}"
        )
    words = ("located", "situated", "positioned", "found", f"that {verb}", "visible", "", "placed")
    return f"{random.choice(words)} {said.place}".strip()


def _spelled_out(text: str) -> str:
    """A sentence does not begin with a figure."""
    figures = {"1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six", "16": "sixteen"}
    first, _, rest = text.partition(" ")
    return f"{figures.get(first, f'exactly {first}' if first.isdigit() else first)} {rest}".strip()


def _all(facts: ClinicalFacts, picture: str, random: Random) -> str:
    phrases = []
    for statement in facts.statements:
        if statement.present:
            said = say(statement, picture, random)
            phrases.append(f"{said.text} {_located(said, random)}".strip())
    # Absent things last: what follows a negation would be read as absent too.
    random.shuffle(phrases)
    phrases += [f"no {say_name(each, random)[0]}" for each in facts.statements if not each.present]
    if len(phrases) == 2:
        return random.choice(_ADDED[: 1 if "no " in phrases[1][:3] else None]).join(phrases)
    return join_words(phrases, random)
