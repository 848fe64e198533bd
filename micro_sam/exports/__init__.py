"""Objects out to files that other programs read, and back in from theirs."""

from micro_sam.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".content": ("LabelledImage", "ImportedLabels"),
        ".settings": ("ExportSettings", "ImportSettings"),
        ".registry": ("FORMATS", "ExportFormat", "format_of", "check_export"),
        ".exporting": ("export_labels", "iter_export"),
        ".importing": ("import_labels", "iter_import"),
        ".measurements": ("measure_objects",),
        ".classes": ("read_classes",),
    },
)
