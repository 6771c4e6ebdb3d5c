import slicer
from CounterfactualMRILib.acquisition import readAcquisition
from mrml_fixtures import makeVolume


class Database:
    """ctkDICOMDatabase as far as it is used."""

    def __init__(self, values, isOpen=True):
        self.values, self.isOpen = values, isOpen

    def instanceValue(self, uid, tag):
        return self.values.get(tag, "") if uid == "1.2.3" else ""


HEADER = {
    "0008,0070": "SIEMENS ",
    "0008,1090": "Avanto",
    "0018,0087": "1.494",
    "0018,0022": "PFP\\SFS",
    "0018,1314": "10",
    "0018,0050": "",
    "0018,0081": "1.36\\2.7",
    "0018,0080": "nan",
}


def loaded():
    volume = makeVolume()
    volume.SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
    return volume


def test_header_is_read_and_what_is_unreadable_left_out(monkeypatch):
    monkeypatch.setattr(slicer, "dicomDatabase", Database(HEADER), raising=False)
    assert readAcquisition(loaded()) == {
        "manufacturer": "SIEMENS",
        "manufacturer_model": "Avanto",
        "field_strength_t": 1.494,
        "scan_options": "PFP\\SFS",
        "flip_angle_deg": 10.0,
    }


def test_nothing_is_known_without_dicom_or_database(monkeypatch):
    monkeypatch.setattr(slicer, "dicomDatabase", Database(HEADER), raising=False)
    assert readAcquisition(makeVolume()) == {}
    monkeypatch.setattr(slicer, "dicomDatabase", Database(HEADER, isOpen=False))
    assert readAcquisition(loaded()) == {}
    monkeypatch.delattr(slicer, "dicomDatabase")
    assert readAcquisition(loaded()) == {}
