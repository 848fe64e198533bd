"""Finetuning Segment Anything on your own images.

Names are imported on first use, so that importing this package costs nothing.
"""

from micro_sam.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".configuration": ("CONFIGURATIONS", "find_configuration"),
        ".dataset": ("SamDataset", "default_sam_dataset", "default_sam_loader"),
        ".export": ("export_instance_segmentation_model", "export_trained_model"),
        ".instance_trainer": ("InstanceTrainer",),
        ".joint_sam_trainer": ("JointSamLogger", "JointSamTrainer"),
        ".preflight": ("PreflightReport", "check_training_data"),
        ".data": ("TrainingData",),
        ".examples": ("Example",),
        ".progress": ("TrainingProgress",),
        ".run": ("RunResult", "run_training"),
        ".semantic_sam_trainer": ("CustomDiceLoss", "SemanticMapsSamTrainer", "SemanticSamTrainer"),
        ".simple_sam_trainer": ("MedSAMTrainer", "SimpleSamTrainer"),
        ".settings": ("TrainingSettings",),
        ".sam_trainer": ("SamLogger", "SamTrainer"),
        ".trainable_sam": ("TrainableSAM",),
        ".training": ("train_instance_segmentation", "train_sam", "train_sam_for_configuration"),
        ".util": (
            "ConvertToSamInputs",
            "ConvertToSemanticSamInputs",
            "ResizeLabelTrafo",
            "ResizeRawTrafo",
            "get_raw_transform",
            "get_trainable_sam_model",
            "identity",
            "normalize_to_8bit",
            "require_8bit",
        ),
    },
)
