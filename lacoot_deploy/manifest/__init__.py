"""The manifest room: the versioned record that travels inside an ONNX file, and the plans that `collapse` applies."""

from lacoot_deploy.manifest.conversion import ConversionRecord
from lacoot_deploy.manifest.manifest import (
    MANIFEST_KEY,
    MAX_MANIFEST_BYTES,
    BlockRecord,
    DistanceRecord,
    LatencyRecord,
    Manifest,
    PreprocessingRecord,
    RoundRecord,
    SourceRecord,
    StatisticsRecord,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from lacoot_deploy.manifest.plan import (
    ArrayRecord,
    CollapseRecord,
    LineariseRecord,
    Plan,
    PlanStep,
    RefitRecord,
    RepairRecord,
    TaskRecord,
    parse_plan,
)
from lacoot_deploy.manifest.records import SCHEMA_VERSION, Record, to_json

__all__ = [
    "MANIFEST_KEY",
    "MAX_MANIFEST_BYTES",
    "SCHEMA_VERSION",
    "ArrayRecord",
    "BlockRecord",
    "CollapseRecord",
    "ConversionRecord",
    "DistanceRecord",
    "LatencyRecord",
    "LineariseRecord",
    "Manifest",
    "Plan",
    "PlanStep",
    "PreprocessingRecord",
    "Record",
    "RefitRecord",
    "RepairRecord",
    "RoundRecord",
    "SourceRecord",
    "StatisticsRecord",
    "TaskRecord",
    "parse_manifest",
    "parse_plan",
    "read_manifest",
    "to_json",
    "write_manifest",
]
