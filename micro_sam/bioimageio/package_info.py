"""What a person says about a model that is published: name, authors, licence, citations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from micro_sam.errors import ParameterError
from micro_sam.models.spec import ModelSpec

_SAM = {"text": "Kirillov et al.: Segment Anything, ICCV 2023", "doi": "10.48550/arXiv.2304.02643"}
_MICRO_SAM = {
    "text": "Archit et al.: Segment Anything for Microscopy, Nature Methods 2025",
    "doi": "10.1038/s41592-024-02580-4",
}
_MOBILE_SAM = {"text": "Zhang et al.: Faster Segment Anything (MobileSAM), 2023", "doi": "10.48550/arXiv.2306.14289"}
_KINDS = {False: "segments the objects that points, boxes and masks name", True: "segments every object of an image"}


@dataclass(frozen=True)
class PackageInfo:
    """The describing part of a package for the model zoo.

    Attributes:
        name: What the model is called; letters, digits, spaces, "_", "+", "-" and brackets, at least five.
        description: One or two sentences.
        authors: Mappings with "name" and, where wanted, "affiliation", "github_user", "orcid", "email".
        license: An SPDX identifier, such as "MIT" or "CC-BY-4.0".
        cite: Mappings with "text" and "doi" or "url", beside those of Segment Anything and micro_sam.
        tags: Words to find the model by.
        documentation: Markdown to put before the part that is written by itself.
        version: The version of the model.
        maintainers: Mappings with "github_user" and, where wanted, "name".
        git_repo: Where the model is developed.
        links: Names of other resources of the model zoo.
    """

    name: str
    description: str | None = None
    authors: Sequence[Mapping[str, Any]] = ()
    license: str = "CC-BY-4.0"
    cite: Sequence[Mapping[str, str]] = ()
    tags: Sequence[str] = ()
    documentation: str = ""
    version: str = "0.1.0"
    maintainers: Sequence[Mapping[str, Any]] = ()
    git_repo: str | None = None
    links: Sequence[str] = ()

    @classmethod
    def of(cls, name: str, values: Mapping[str, Any]) -> PackageInfo:
        """From keyword arguments.

        Raises:
            ParameterError: One of them is unknown.
        """
        known = {item.name for item in fields(cls)} - {"name"}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ParameterError(
                f"Unknown argument {unknown[0]!r} for a package: expected one of {', '.join(sorted(known))}."
            )
        return cls(name, **values)

    def citations(self, encoder: str, spec: ModelSpec | None) -> list[dict[str, str]]:
        """What to cite: what was given, the registered model, and the methods it builds on."""
        own = [dict(entry) for entry in self.cite]
        if spec is not None and spec.doi:
            own.append({"text": f"The model {spec.name}", "doi": spec.doi})
        return [*own, _MICRO_SAM, _SAM, *([_MOBILE_SAM] if encoder == "vit_t" else [])]

    def summary(self, encoder: str, automatic: bool) -> str:
        """The description, made up where none was given."""
        return self.description or f"Segment Anything for microscopy ({encoder}): {_KINDS[automatic]}."

    def named_authors(self) -> list[dict[str, Any]]:
        """The authors; the format wants one, so an unknown one stands in."""
        return [dict(author) for author in self.authors] or [{"name": "Unknown"}]
