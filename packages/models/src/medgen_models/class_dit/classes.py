"""Class names, and the class that a prompt means."""

import re
from collections.abc import Sequence


class ClassNames:
    """The classes of a model in the order of their ids; the id after the last is the null class.

    Names are compared in one normal form: case folded, every run of other characters than letters and digits one
    space. `Normal-Cecum` in a prompt is thus the class `normal cecum`.

    Raises:
        ValueError: If there is no name, a name is empty, or two names have the same normal form.
    """

    def __init__(self, names: Sequence[str]) -> None:
        if isinstance(names, str) or not names:
            raise ValueError(f"class names must be a list of at least one name, got {names!r}")
        self.names = tuple(names)
        self._ids: dict[str, int] = {}
        for class_id, name in enumerate(self.names):
            form = normal_form(name)
            if not form:
                raise ValueError(f"class {class_id}: name {name!r} holds no letter or digit")
            if form in self._ids:
                other = self.names[self._ids[form]]
                raise ValueError(
                    f"classes {other!r} and {name!r} cannot be told apart in a prompt; rename one"
                )
            self._ids[form] = class_id

    @property
    def null_class(self) -> int:
        """Id of the null class."""
        return len(self.names)

    def class_of(self, prompt: str) -> int:
        """Return the id of the class a prompt names.

        The prompt is the name, or holds it as whole words; of names inside one another (`normal`, `normal cecum`)
        the longest counts. The empty prompt is the null class.

        Raises:
            ValueError: If the prompt names no class, or several.
        """
        if not prompt.strip():
            return self.null_class
        words = f" {normal_form(prompt)} "
        found = [form for form in self._ids if f" {form} " in words]
        if not found:
            raise ValueError(f"prompt {prompt!r} names no class; known are {', '.join(self.names)}")
        longest = max(found, key=len)
        rest = re.sub(f"(?<= ){re.escape(longest)}(?= )", "|", words)
        inside = [form for form in found if f" {form} " in f" {longest} " and f" {form} " not in rest]
        clashing = [self.names[self._ids[form]] for form in found if form not in (longest, *inside)]
        if clashing:
            raise ValueError(
                f"prompt {prompt!r} names several classes: {self.names[self._ids[longest]]}, "
                f"{', '.join(clashing)}; a class-conditional model draws one of {', '.join(self.names)}"
            )
        return self._ids[longest]


def normal_form(text: str) -> str:
    """Return text case-folded, with one space for every run of characters that are no letters or digits."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()
