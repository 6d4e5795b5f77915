from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Masks(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MASKS_UNSPECIFIED: _ClassVar[Masks]
    MASKS_NONE: _ClassVar[Masks]
    MASKS_RLE: _ClassVar[Masks]
    MASKS_POLYGONS: _ClassVar[Masks]

class Format(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FORMAT_UNSPECIFIED: _ClassVar[Format]
    FORMAT_PNG: _ClassVar[Format]
    FORMAT_RLE: _ClassVar[Format]
    FORMAT_POLYGONS: _ClassVar[Format]
MASKS_UNSPECIFIED: Masks
MASKS_NONE: Masks
MASKS_RLE: Masks
MASKS_POLYGONS: Masks
FORMAT_UNSPECIFIED: Format
FORMAT_PNG: Format
FORMAT_RLE: Format
FORMAT_POLYGONS: Format

class ClassifyRequest(_message.Message):
    __slots__ = ("image", "model", "top_k")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: str
    top_k: int
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[str] = ..., top_k: _Optional[int] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("model", "version", "image", "timings_ms", "predictions")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_MS_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    image: Size
    timings_ms: Timings
    predictions: _containers.RepeatedCompositeFieldContainer[Prediction]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., image: _Optional[_Union[Size, _Mapping]] = ..., timings_ms: _Optional[_Union[Timings, _Mapping]] = ..., predictions: _Optional[_Iterable[_Union[Prediction, _Mapping]]] = ...) -> None: ...

class DetectRequest(_message.Message):
    __slots__ = ("image", "model", "min_score", "max_detections", "masks")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    MAX_DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: str
    min_score: float
    max_detections: int
    masks: Masks
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[str] = ..., min_score: _Optional[float] = ..., max_detections: _Optional[int] = ..., masks: _Optional[_Union[Masks, str]] = ...) -> None: ...

class DetectResponse(_message.Message):
    __slots__ = ("model", "version", "image", "timings_ms", "detections")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_MS_FIELD_NUMBER: _ClassVar[int]
    DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    image: Size
    timings_ms: Timings
    detections: _containers.RepeatedCompositeFieldContainer[Detection]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., image: _Optional[_Union[Size, _Mapping]] = ..., timings_ms: _Optional[_Union[Timings, _Mapping]] = ..., detections: _Optional[_Iterable[_Union[Detection, _Mapping]]] = ...) -> None: ...

class SegmentRequest(_message.Message):
    __slots__ = ("image", "model", "format")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: str
    format: Format
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[str] = ..., format: _Optional[_Union[Format, str]] = ...) -> None: ...

class SegmentResponse(_message.Message):
    __slots__ = ("model", "version", "image", "timings_ms", "classes", "unseen_px", "class_map")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_MS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    UNSEEN_PX_FIELD_NUMBER: _ClassVar[int]
    CLASS_MAP_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    image: Size
    timings_ms: Timings
    classes: _containers.RepeatedCompositeFieldContainer[Area]
    unseen_px: int
    class_map: bytes
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., image: _Optional[_Union[Size, _Mapping]] = ..., timings_ms: _Optional[_Union[Timings, _Mapping]] = ..., classes: _Optional[_Iterable[_Union[Area, _Mapping]]] = ..., unseen_px: _Optional[int] = ..., class_map: _Optional[bytes] = ...) -> None: ...

class Size(_message.Message):
    __slots__ = ("width", "height")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("read", "decode", "preprocess", "queue", "infer", "postprocess", "total")
    READ_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    PREPROCESS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    INFER_FIELD_NUMBER: _ClassVar[int]
    POSTPROCESS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    read: float
    decode: float
    preprocess: float
    queue: float
    infer: float
    postprocess: float
    total: float
    def __init__(self, read: _Optional[float] = ..., decode: _Optional[float] = ..., preprocess: _Optional[float] = ..., queue: _Optional[float] = ..., infer: _Optional[float] = ..., postprocess: _Optional[float] = ..., total: _Optional[float] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("label_id", "label", "index", "score")
    LABEL_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    label_id: str
    label: str
    index: int
    score: float
    def __init__(self, label_id: _Optional[str] = ..., label: _Optional[str] = ..., index: _Optional[int] = ..., score: _Optional[float] = ...) -> None: ...

class Detection(_message.Message):
    __slots__ = ("label_id", "label", "index", "score", "box", "rle", "polygons")
    LABEL_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    RLE_FIELD_NUMBER: _ClassVar[int]
    POLYGONS_FIELD_NUMBER: _ClassVar[int]
    label_id: str
    label: str
    index: int
    score: float
    box: Box
    rle: RunLengths
    polygons: _containers.RepeatedCompositeFieldContainer[Polygon]
    def __init__(self, label_id: _Optional[str] = ..., label: _Optional[str] = ..., index: _Optional[int] = ..., score: _Optional[float] = ..., box: _Optional[_Union[Box, _Mapping]] = ..., rle: _Optional[_Union[RunLengths, _Mapping]] = ..., polygons: _Optional[_Iterable[_Union[Polygon, _Mapping]]] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("left", "top", "right", "bottom")
    LEFT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    BOTTOM_FIELD_NUMBER: _ClassVar[int]
    left: float
    top: float
    right: float
    bottom: float
    def __init__(self, left: _Optional[float] = ..., top: _Optional[float] = ..., right: _Optional[float] = ..., bottom: _Optional[float] = ...) -> None: ...

class RunLengths(_message.Message):
    __slots__ = ("height", "width", "counts")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    counts: str
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ..., counts: _Optional[str] = ...) -> None: ...

class Polygon(_message.Message):
    __slots__ = ("points",)
    POINTS_FIELD_NUMBER: _ClassVar[int]
    points: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, points: _Optional[_Iterable[int]] = ...) -> None: ...

class Area(_message.Message):
    __slots__ = ("label_id", "label", "index", "area_px", "share", "rle", "polygons")
    LABEL_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    AREA_PX_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    RLE_FIELD_NUMBER: _ClassVar[int]
    POLYGONS_FIELD_NUMBER: _ClassVar[int]
    label_id: str
    label: str
    index: int
    area_px: int
    share: float
    rle: RunLengths
    polygons: _containers.RepeatedCompositeFieldContainer[Polygon]
    def __init__(self, label_id: _Optional[str] = ..., label: _Optional[str] = ..., index: _Optional[int] = ..., area_px: _Optional[int] = ..., share: _Optional[float] = ..., rle: _Optional[_Union[RunLengths, _Mapping]] = ..., polygons: _Optional[_Iterable[_Union[Polygon, _Mapping]]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "limits", "aliases")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    limits: Limits
    aliases: _containers.RepeatedCompositeFieldContainer[Alias]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., aliases: _Optional[_Iterable[_Union[Alias, _Mapping]]] = ...) -> None: ...

class Alias(_message.Message):
    __slots__ = ("name", "state", "default", "task", "models", "reason")
    class ModelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: Model.State
    default: bool
    task: str
    models: _containers.ScalarMap[str, float]
    reason: str
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[Model.State, str]] = ..., default: _Optional[bool] = ..., task: _Optional[str] = ..., models: _Optional[_Mapping[str, float]] = ..., reason: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_body_bytes", "max_pixels")
    MAX_BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_FIELD_NUMBER: _ClassVar[int]
    max_body_bytes: int
    max_pixels: int
    def __init__(self, max_body_bytes: _Optional[int] = ..., max_pixels: _Optional[int] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "state", "default", "reason", "version", "task", "description", "input", "precision", "sparsity", "classes", "masks", "accuracy", "executor", "file_bytes", "behind")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Model.State]
        STATE_READY: _ClassVar[Model.State]
        STATE_UNAVAILABLE: _ClassVar[Model.State]
    STATE_UNSPECIFIED: Model.State
    STATE_READY: Model.State
    STATE_UNAVAILABLE: Model.State
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    SPARSITY_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    EXECUTOR_FIELD_NUMBER: _ClassVar[int]
    FILE_BYTES_FIELD_NUMBER: _ClassVar[int]
    BEHIND_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: Model.State
    default: bool
    reason: str
    version: int
    task: str
    description: str
    input: Size
    precision: Precision
    sparsity: str
    classes: int
    masks: bool
    accuracy: _containers.RepeatedCompositeFieldContainer[Accuracy]
    executor: str
    file_bytes: int
    behind: str
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[Model.State, str]] = ..., default: _Optional[bool] = ..., reason: _Optional[str] = ..., version: _Optional[int] = ..., task: _Optional[str] = ..., description: _Optional[str] = ..., input: _Optional[_Union[Size, _Mapping]] = ..., precision: _Optional[_Union[Precision, _Mapping]] = ..., sparsity: _Optional[str] = ..., classes: _Optional[int] = ..., masks: _Optional[bool] = ..., accuracy: _Optional[_Iterable[_Union[Accuracy, _Mapping]]] = ..., executor: _Optional[str] = ..., file_bytes: _Optional[int] = ..., behind: _Optional[str] = ...) -> None: ...

class Precision(_message.Message):
    __slots__ = ("weights", "activations")
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    weights: str
    activations: str
    def __init__(self, weights: _Optional[str] = ..., activations: _Optional[str] = ...) -> None: ...

class Accuracy(_message.Message):
    __slots__ = ("data", "metric", "images", "teacher", "sparse", "quantized")
    DATA_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    TEACHER_FIELD_NUMBER: _ClassVar[int]
    SPARSE_FIELD_NUMBER: _ClassVar[int]
    QUANTIZED_FIELD_NUMBER: _ClassVar[int]
    data: str
    metric: str
    images: int
    teacher: float
    sparse: float
    quantized: float
    def __init__(self, data: _Optional[str] = ..., metric: _Optional[str] = ..., images: _Optional[int] = ..., teacher: _Optional[float] = ..., sparse: _Optional[float] = ..., quantized: _Optional[float] = ...) -> None: ...
