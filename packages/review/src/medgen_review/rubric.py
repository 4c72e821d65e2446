"""The questions of Prompt to Polyp, section 5.1.2: six aspects from 0 to 10, with an anchor for each end.

The aspects and what they judge are the paper's; the anchors and the briefing are ours, as the paper's guide is not
published. All of it can be replaced when a study is created.
"""

from medgen_review.study import Aspect

ASPECTS: tuple[Aspect, ...] = (
    Aspect(
        key="clinical_realism",
        name="Clinical Realism",
        question="Do the images look like authentic clinical images?",
        lowest_anchor="obviously artificial: impossible tissue, shapes or light",
        highest_anchor="could not be told from a real examination",
    ),
    Aspect(
        key="prompt_faithfulness",
        name="Prompt Faithfulness",
        question="Do the images show what the text says: findings, number, place, colour, instruments, text?",
        lowest_anchor="nothing of the text is shown",
        highest_anchor="every part of the text is shown, in every image",
    ),
    Aspect(
        key="detectability",
        name="Detectability of Abnormality",
        question="Is the abnormality that the text names clear to see?",
        lowest_anchor="cannot be found or recognised",
        highest_anchor="found and recognised at once, in every image",
    ),
    Aspect(
        key="color_contrast",
        name="Color and Contrast",
        question="Are colours and contrast clinically right for tissue, light and finding?",
        lowest_anchor="colours that do not occur; flat or glaring",
        highest_anchor="as from a good instrument",
    ),
    Aspect(
        key="diversity",
        name="Intra-set Diversity",
        question="Do the images of the set differ from each other while each stays plausible?",
        lowest_anchor="nearly the same image again and again",
        highest_anchor="as varied as different patients",
    ),
    Aspect(
        key="confidence_of_use",
        name="Confidence of Use",
        question="Would you use these images for training or teaching?",
        lowest_anchor="in no case",
        highest_anchor="without reservation",
    ),
)

BRIEFING: tuple[str, ...] = (
    "You will see one page per text. First come real images for comparison, marked as real; then sets of images "
    "under the letters A, B, C and so on, each drawn for this text by another computer program.",
    "The letters change from page to page: A on this page is not A on the next. Please judge only what you see on "
    "the page, and do not try to recognise a program.",
    "Judge each set as a whole on every scale. 0 and the highest value mean what is written at the ends of the "
    "scale; use the whole scale, and give the middle to what is neither good nor bad.",
    "At the end of a page, order the sets by realism and clinical usefulness, 1 for the best. No two may share a "
    "place.",
    "Every answer is kept as soon as it is given. You may stop at any time, go on later or on another machine with "
    "the same code, and change earlier answers until you finish.",
    "Some pages may come a second time, or ask for a certain value: this is part of the study. There is no time "
    "limit.",
)
