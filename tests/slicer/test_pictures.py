import numpy as np
import pytest
from pictures import draw
from PySide6.QtGui import QImage

pytestmark = pytest.mark.timeout(1200)


def pixels(path):
    image = QImage(str(path)).convertToFormat(QImage.Format_RGB888)
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).astype(int)


def test_every_picture_shows_something(live_server, live_studies, tmp_path):
    from cfmri_core.data.studies import list_studies

    scan = list_studies(live_studies)[0].scan_path
    paths = draw(tmp_path, live_server, scan, {"echo_time_ms": 1.4}, {"slices": "2:4"})
    assert [path.name for path in paths] == [
        "panel-connected.png",
        "panel-running.png",
        "panel-result.png",
        "comparison.png",
        "uncertainty.png",
        "segmentation.png",
    ]
    for path in paths:
        assert pixels(path).std() > 10
    for name, views in (("comparison.png", 3), ("uncertainty.png", 2), ("segmentation.png", 2)):
        picture = pixels(tmp_path / name)[30:]
        assert picture.shape[1] == views * 424 - 4
        for left in range(0, picture.shape[1], 424):
            assert picture[:, left : left + 420].std() > 10
