"""Which columns of a Parquet file hold the images and the labels."""

import json

import pyarrow as pa

from pipeline.errors import UserError
from pipeline.ingest.options import Options


def image_column(schema: pa.Schema, path: str, asked: str | None) -> str:
    """The one column of bytes, or that which `data.image_column` names; raises UserError that names the columns."""
    found = [field.name for field in schema if _holds_bytes(field.type)]
    if asked is not None:
        if asked not in found:
            raise UserError(
                f"column {asked} of {path} holds no image bytes; set data.image_column to one of"
                f" {', '.join(found or schema.names)}"
            )
        return asked
    if not found:
        raise UserError(
            f"{path} has no column of image bytes, only {', '.join(schema.names)}; give images as binary columns"
        )
    if len(found) > 1:
        raise UserError(f"{path} has several columns of bytes: {', '.join(found)}; name one as data.image_column")
    return found[0]


def label_column(schema: pa.Schema, path: str, options: Options) -> str | None:
    """`label` if it is there, or NAME of `column:NAME`; raises UserError that names the columns."""
    asked = options.label_column
    if asked is None:
        return "label" if "label" in schema.names else None
    if asked not in schema.names:
        raise UserError(f"{path} has no column {asked} for data.labels; it has {', '.join(schema.names)}")
    kind = schema.field(asked).type
    if pa.types.is_nested(kind):
        raise UserError(f"column {asked} of {path} is a {kind}, no label; name another one in data.labels")
    return asked


def label_names(schema: pa.Schema, column: str | None) -> list[str] | None:
    """The class names that Hugging Face's `datasets` writes beside a column of class numbers."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        names = feature["names"] if feature.get("_type") == "ClassLabel" else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )
