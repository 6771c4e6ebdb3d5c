"""cfmri: how would this patient's MR scan have looked, had it been acquired otherwise?"""

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import CfmriError
from cfmri_core.volume import Volume

__version__ = "0.1.0"
__all__ = ["AcquisitionParameters", "CfmriError", "Volume", "__version__"]
