from pathlib import Path

import numpy as np
import pytest
from medgen_data.dicom import ALLOWED_TAGS, apply_window, read_dicom
from medgen_data.images import ImageError

pydicom = pytest.importorskip("pydicom")


def write_dicom(file: Path, pixels: np.ndarray, **tags: object) -> Path:
    """A secondary capture of 16-bit grey or 8-bit RGB pixels, patient included."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = pydicom.dataset.FileDataset(str(file), {}, file_meta=meta, preamble=b"\0" * 128)
    colour = pixels.dtype == np.uint8
    about = {
        "PatientName": "Doe^Jane",
        "PatientID": "4711",
        "PatientBirthDate": "19500101",
        "InstitutionName": "St. Elsewhere",
        "Modality": "DX",
        "BodyPartExamined": "CHEST",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": 8 if colour else 16,
        "BitsStored": 8 if colour else 16,
        "HighBit": 7 if colour else 15,
        "PixelRepresentation": 0,
        **({"PlanarConfiguration": 0} if colour else {}),
        **tags,
    }
    for name, value in about.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(file, enforce_file_format=True)
    return file


RAMP = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)


def test_nothing_that_names_the_patient_passes(tmp_path: Path) -> None:
    done = read_dicom(write_dicom(tmp_path / "a.dcm", RAMP, StudyDescription="Jane Doe's knee"))
    assert done.facts == {"modality": "DX", "body_part": "CHEST"}
    assert not any("Patient" in tag or "Date" in tag or "Description" in tag for tag in ALLOWED_TAGS)


def test_without_a_window_the_occurring_range_fills_the_scale(tmp_path: Path) -> None:
    image = read_dicom(write_dicom(tmp_path / "a.dcm", RAMP)).image
    np.testing.assert_array_equal(image[:, :, 0], np.rint(RAMP * (255 / 4095)))
    padded = RAMP.copy()
    padded[0, :5] = 65535
    image = read_dicom(write_dicom(tmp_path / "b.dcm", padded, PixelPaddingValue=65535)).image
    assert image[0, :5].max() == 0
    np.testing.assert_allclose(image[1:, :, 0], np.rint((RAMP[1:] - 5.0) * (255 / 4090)), atol=1)


def test_inverted_grey_is_turned_round(tmp_path: Path) -> None:
    upright = read_dicom(write_dicom(tmp_path / "a.dcm", RAMP)).image
    inverted = read_dicom(
        write_dicom(tmp_path / "b.dcm", RAMP, PhotometricInterpretation="MONOCHROME1")
    ).image
    np.testing.assert_array_equal(inverted, 255 - upright)


def test_window_of_the_file_applies_to_rescaled_values(tmp_path: Path) -> None:
    file = write_dicom(
        tmp_path / "a.dcm",
        RAMP,
        RescaleSlope=2,
        RescaleIntercept=-1024,
        WindowCenter=[40, 300],
        WindowWidth=[400, 9],
    )
    hounsfield = 2.0 * RAMP - 1024
    expected = np.rint(np.clip(((hounsfield - 39.5) / 399 + 0.5) * 255, 0, 255))
    np.testing.assert_array_equal(read_dicom(file).image[:, :, 1], expected)
    np.testing.assert_array_equal(
        read_dicom(file, window=(0, 2)).image[:, :, 2], apply_window(hounsfield, 0, 2)
    )


@pytest.mark.parametrize(("centre", "width"), [(40.0, 400.0), (2048.0, 4096.0), (7.0, 2.0), (7.0, 1.0)])
def test_window_agrees_with_pydicom(tmp_path: Path, centre: float, width: float) -> None:
    dataset = pydicom.dcmread(
        write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=centre, WindowWidth=width, BitsStored=16)
    )
    reference = pydicom.pixels.apply_windowing(RAMP, dataset) / 65535 * 255
    np.testing.assert_allclose(
        apply_window(RAMP.astype(np.float64), centre, width), reference, atol=0.5 + 1e-6
    )


def test_colour_is_taken_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read_dicom(write_dicom(tmp_path / "a.dcm", pixels)).image, pixels)


@pytest.mark.parametrize(
    ("tags", "code", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, "unsupported-mode", "declares burned-in annotation"),
        ({"NumberOfFrames": 12}, "animated", "has 12 frames, expected one"),
        ({"Rows": 60_000, "Columns": 60_000}, "too-large", "is 60000 x 60000 pixels"),
        ({"Rows": 65}, "truncated", "its pixels cannot be decoded"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "unsupported-mode", "colours PALETTE COLOR"),
        ({"VOILUTFunction": "SIGMOID"}, "unsupported-mode", "no linear window; give a window"),
    ],
)
def test_what_cannot_be_shown_faithfully_is_refused(
    tmp_path: Path, tags: dict[str, object], code: str, reason: str
) -> None:
    with pytest.raises(ImageError, match=rf"a\.dcm: .*{reason}") as caught:
        read_dicom(write_dicom(tmp_path / "a.dcm", RAMP, **tags))
    assert caught.value.code == code


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"<html>")
    with pytest.raises(ImageError, match="is not a DICOM file"):
        read_dicom(tmp_path / "a.dcm")
    with pytest.raises(ImageError, match="does not exist"):
        read_dicom(tmp_path / "gone.dcm")
