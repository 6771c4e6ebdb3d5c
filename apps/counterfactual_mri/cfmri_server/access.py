"""Which routes there are for clients, and the role each needs. What is not in this table is closed.

A route that MONAI Label or a later version adds is therefore closed until somebody decides who may use it. Left out on
purpose: weights in and out (``/model/NAME``), the PACS proxy, logs, whole-slide inference, the bundled viewer and its
files, MONAI Label's login, the reload that would drop the running app, and training or scoring everything at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from starlette.datastructures import QueryParams

from cfmri_server.tokens import Role

_ANYONE, _READER, _ANNOTATOR, _ADMIN = Role


@dataclass(frozen=True)
class Route:
    """One row of the table.

    Attributes:
        method: HTTP method.
        path: Path with ``{names}``; a slash at its end may be there or not.
        role: Least role that may use it.
        action: What the audit log calls it; empty for what is not logged.
        takes_files: Whether its body may be as large as an image.
        image: Query parameter by which it names an image (a label has its image's id); empty where there is none, or
            where the route itself notes what it used.
    """

    method: str
    path: str
    role: Role
    action: str = ""
    takes_files: bool = False
    image: str = ""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The path as an expression; its groups are the ``{names}``."""
        return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.path.rstrip("/")) + "/?")

    def image_in(self, query: bytes) -> str | None:
        """Return the image that a query string names, read as the route will read it; ``None`` if it names none."""
        return QueryParams(query).get(self.image) if self.image else None


ROUTES = (
    Route("GET", "/healthz", _ANYONE),
    Route("GET", "/", _READER),
    Route("GET", "/docs", _READER),
    Route("GET", "/openapi.json", _READER),
    Route("GET", "/info/", _READER),
    Route("GET", "/model/info/{model}", _READER),
    # Inference
    Route("POST", "/infer/{model}", _READER, "infer", takes_files=True),
    Route("POST", "/jobs/{model}", _READER, "start job", takes_files=True),
    Route("GET", "/jobs/{job}", _READER),
    Route("GET", "/jobs/{job}/result", _READER, "export result"),
    Route("DELETE", "/jobs/{job}", _READER, "delete job"),
    Route("POST", "/jobs/{job}/store", _ANNOTATOR, "store result"),
    Route("GET", "/archive/", _READER),
    Route("POST", "/archive/refresh", _READER),
    Route("PUT", "/session/", _READER, "save session", takes_files=True),
    Route("GET", "/session/{session}", _READER, "export session"),
    Route("DELETE", "/session/{session}", _READER, "delete session"),
    Route("GET", "/batch/infer", _READER),
    Route("POST", "/batch/infer/{model}", _ADMIN, "batch infer"),
    Route("DELETE", "/batch/infer", _ADMIN, "stop batch infer"),
    # Images and labels
    Route("GET", "/datastore/", _READER),
    Route("PUT", "/datastore/", _ANNOTATOR, "save image", takes_files=True, image="image"),
    Route("DELETE", "/datastore/", _ADMIN, "delete image", image="id"),
    Route("HEAD", "/datastore/image", _READER),
    Route("GET", "/datastore/image", _READER, "export image", image="image"),
    Route("PUT", "/datastore/image", _ANNOTATOR, "save image", takes_files=True, image="image"),
    Route("DELETE", "/datastore/image", _ADMIN, "delete image", image="id"),
    Route("GET", "/datastore/image/info", _READER),
    Route("PUT", "/datastore/image/info", _ANNOTATOR, "save image info", image="image"),
    Route("HEAD", "/datastore/label", _READER),
    Route("GET", "/datastore/label", _READER, "export label", image="label"),
    Route("PUT", "/datastore/label", _ANNOTATOR, "save label", takes_files=True, image="image"),
    Route("DELETE", "/datastore/label", _ADMIN, "delete label", image="id"),
    Route("GET", "/datastore/label/info", _READER),
    Route("PUT", "/datastore/label/info", _ANNOTATOR, "save label info", image="label"),
    Route("PUT", "/datastore/updatelabelinfo", _ANNOTATOR, "save label info", image="label"),
    Route("GET", "/datastore/dataset", _ANNOTATOR, "export dataset"),
    # Learning
    Route("POST", "/activelearning/{strategy}", _ANNOTATOR, "next sample"),
    Route("GET", "/scoring/", _READER),
    Route("GET", "/scoring/progress/{method}", _READER),
    Route("POST", "/scoring/{method}", _ANNOTATOR, "score"),
    Route("DELETE", "/scoring/", _ANNOTATOR, "stop scoring"),
    Route("GET", "/train/", _READER),
    Route("GET", "/train/progress/{model}", _READER),
    Route("POST", "/train/{model}", _ADMIN, "train"),
    Route("DELETE", "/train/", _ADMIN, "stop training"),
    Route("GET", "/models/{model}", _READER),
    Route("POST", "/models/{model}/rollback", _ADMIN, "roll back model"),
    Route("POST", "/models/{model}/publish", _ADMIN, "publish model"),
)


def find_route(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """Return the row of a request and the values of its ``{names}``; ``None`` for what is closed."""
    if not path.isprintable():  # a router's "$" would let a line break through that ends a path
        return None
    for route in ROUTES:
        if method == route.method and (match := route.pattern.fullmatch(path)):
            return route, match.groupdict()
    return None
