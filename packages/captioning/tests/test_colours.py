import numpy as np
import pytest
from medgen_captioning.colours import COLOUR_NAMES, colour_family, name_colour, nearest_names, to_lab


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [  # CIELAB of the sRGB corners under D65, as tabulated
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0.0, 0.0)),
    ],
)
def test_lab_matches_tabulated_colours(rgb: tuple[int, int, int], lab: tuple[float, float, float]) -> None:
    converted = to_lab(np.array([[rgb]], dtype=np.uint8))
    assert converted.shape == (1, 1, 3)
    np.testing.assert_allclose(converted[0, 0], lab, atol=0.1)


@pytest.mark.parametrize(
    ("rgb", "family"),
    [
        ((205, 40, 40), "red"),
        ((60, 105, 190), "blue"),
        ((110, 70, 50), "brown"),
        ((250, 250, 250), "white"),
        ((10, 10, 10), "black"),
        ((222, 140, 130), "pink"),
        ((60, 150, 70), "green"),
    ],
)
def test_plain_colours_get_their_name(rgb: tuple[int, int, int], family: str) -> None:
    assert colour_family(name_colour(to_lab(np.array(rgb, dtype=np.uint8)))) == family


@pytest.mark.parametrize(
    ("rgb", "name"),
    [  # the skin around lesions, as a dermatoscope's white balance leaves it
        ((198, 172, 167), "pinkish-beige"),
        ((189, 166, 175), "greyish-pink"),
        ((207, 184, 206), "pale lilac"),
        ((233, 192, 186), "pale pink"),
    ],
)
def test_pale_skin_is_called_what_it_looks_like(rgb: tuple[int, int, int], name: str) -> None:
    assert name_colour(to_lab(np.array(rgb, dtype=np.uint8))) == name


def test_nearest_names_are_those_of_the_smallest_distance() -> None:
    generator = np.random.default_rng(0)
    lab = to_lab(generator.integers(0, 256, (50, 3), dtype=np.uint8))
    together = nearest_names(lab)
    assert [COLOUR_NAMES[i] for i in together] == [name_colour(one) for one in lab]
    assert len(set(together.tolist())) > 5
