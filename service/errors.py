"""The error catalogue: every failure a user can meet, with its status and its remedy.

    RomeError
    ├── Rejected             the request cannot be done as asked
    │   ├── MalformedRequest · ValidationFailed · InvalidCursor · BodyTooLarge
    │   ├── HostNotAllowed · NotFound · MethodNotAllowed
    │   └── IllegalTransition · IdempotencyConflict · RangeNotSatisfiable
    ├── Unavailable          the service cannot do it now
    │   └── StorageFull · DatabaseBusy · BlobDamaged · BlobMissing · InternalError
    ├── StartUp              `rome serve`, `rome worker` or `rome db` cannot begin
    │   └── SettingsInvalid · SchemaMismatch · StateDirBusy · StateDirUnusable · PortInUse
    ├── JobFailure           stored as the `error` of a job that failed
    │   ├── by the core: DatasetMissing · DatasetDamaged · DatasetInvalid · DatasetUnknown
    │   │   · ClassTooSmall · SizeNotDivisible · NetworkTooDeep · Diverged · SpecInvalid
    │   │   · MethodNotInstalled · NoCompiler · DeviceUnknown · DeviceMissing · OutOfMemory
    │   │   · InputMissing · ArtifactMissing · ArtifactDamaged · ArtifactInvalid
    │   │   · ArtifactMismatch · ArtifactUndescribed · UnknownTargetRule · TargetOutOfRange
    │   │   · AttackUnsuitable · NothingToTransfer
    │   │   · WeightsMissing · WeightsTooLarge · WeightsDamaged · WeightsMismatch
    │   │   · WeightsUndescribed
    │   │   · OutcomesUnreadable · ProtocolsDiffer
    │   │   · BeardLogImpossible · BeardLogUnreadable · BeardLogIncomplete
    │   └── by the service: ChildCrashed · Stalled · LeaseLost · RunExpired · QueueExpired
    │       · AttemptsExhausted · PublishRefused
    └── Fenced · CancelWon   between supervisor and database; never shown

A class knows its code, status, title, docs and remedy; an instance adds what happened this time.
Must not know HTTP frameworks: the API turns an instance into problem+json.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from rome_core.recipes import FieldProblem


class RomeError(Exception):
    """Base of the catalogue. `detail` says what happened, `remedy` what to do about it."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong"
    docs: ClassVar[str] = ""
    default_remedy: ClassVar[str] = ""

    def __init__(
        self,
        detail: str = "",
        *,
        remedy: str | None = None,
        problems: Sequence[FieldProblem] = (),
        **extra: Any,
    ) -> None:
        self.detail = detail or self.title
        self.remedy = self.default_remedy if remedy is None else remedy
        self.problems = tuple(problems)
        self.extra: Mapping[str, Any] = extra
        super().__init__(self.detail)

    def as_job_error(self) -> dict[str, Any]:
        """The form stored in `job.error`."""
        return {"code": self.code, "detail": self.detail, "remedy": self.remedy, **self.extra}


class Rejected(RomeError):
    status = 400


class MalformedRequest(Rejected):
    code = "malformed_request"
    title = "The request could not be read"
    docs = "The body is not JSON, or a header or query parameter has a form that cannot be parsed."
    default_remedy = "Send a JSON object with Content-Type: application/json."


class ValidationFailed(Rejected):
    code, status = "validation_failed", 422
    title = "The request is well formed, but some of its fields are not valid"
    docs = "Each entry of `problems` names a field, what is wrong with it and what would be right."
    default_remedy = "Correct the fields listed under `problems` and send the request again."

    def __init__(self, problems: Sequence[FieldProblem], detail: str = "") -> None:
        said = detail or "; ".join(f"{p.field}: {p.message}" for p in problems)
        super().__init__(said, problems=problems)


class InvalidCursor(Rejected):
    code = "invalid_cursor"
    title = "The cursor does not belong to this listing"
    docs = "A cursor continues one listing: it is bound to the filter and order it was made for."
    default_remedy = "Leave `cursor` out to start the listing again."


class BodyTooLarge(Rejected):
    code, status = "body_too_large", 413
    title = "The request body is larger than this service accepts"
    docs = "Bodies are limited by `ROME_MAX_BODY_BYTES`, uploads by `ROME_MAX_UPLOAD_BYTES`."
    default_remedy = "Send a smaller body, or raise the limit."


class HostNotAllowed(Rejected):
    code, status = "host_not_allowed", 403
    title = "The Host or Origin of the request is not on the allow-list"
    docs = (
        "An embedded service has no passwords, so it answers only to names it knows; otherwise a "
        "web page could reach it by rebinding its own name to 127.0.0.1."
    )
    default_remedy = "Use http://127.0.0.1, or add the name to ROME_ALLOWED_HOSTS."


class NotFound(Rejected):
    code, status = "not_found", 404
    title = "There is no such thing here"
    docs = "The identifier is unknown, or belongs to another project."
    default_remedy = "Check the identifier; list the collection to see what exists."


class MethodNotAllowed(Rejected):
    code, status = "method_not_allowed", 405
    title = "This resource does not know that verb"
    docs = "The `Allow` header lists the verbs it knows."
    default_remedy = "Use one of the verbs in the Allow header."


class IllegalTransition(Rejected):
    code, status = "illegal_transition", 409
    title = "The job's state does not allow this"
    docs = "A job moves along a fixed graph of states; a finished job does not move at all."
    default_remedy = "Read the job again; its `status` says what is still possible."


class IdempotencyConflict(Rejected):
    # 422, as in section 2.7 of draft-ietf-httpapi-idempotency-key-header: a key used again with
    # another payload. 409 there is for a request still in flight, which one transaction excludes.
    code, status = "idempotency_conflict", 422
    title = "The idempotency key was used before with another body"
    docs = "A key names one request. The same key with the same body returns the same job."
    default_remedy = "Use a new Idempotency-Key for a new request."


class RangeNotSatisfiable(Rejected):
    code, status = "range_not_satisfiable", 416
    title = "The requested range lies outside the content"
    docs = "The `Content-Range` header of the answer gives the size."
    default_remedy = "Ask for a range that begins before the end of the content."


class Unavailable(RomeError):
    status = 503


class DatabaseBusy(Unavailable):
    code = "database_busy"
    title = "The database stayed locked for too long"
    docs = "Another process held the SQLite write lock longer than the busy timeout."
    default_remedy = "Try again; if it persists, look for a stuck process in the state folder."


class StorageFull(Unavailable):
    code, status = "storage_full", 507
    title = "There is no space left on the device"
    docs = "What was being written has been removed; nothing half-written stays visible."
    default_remedy = "Free space under ROME_STATE_DIR, then try again."


class BlobDamaged(Unavailable):
    code, status = "blob_damaged", 500
    title = "The stored content does not match its digest"
    docs = "A blob is named by its SHA-256. Content that no longer matches is never served."
    default_remedy = "Restore the blob from a backup, or run the job again: its spec has the seed."


class BlobMissing(Unavailable):
    code, status = "blob_missing", 500
    title = "The stored content is not where it should be"
    docs = "The database lists a blob whose file is gone."
    default_remedy = "Restore the blobs folder from a backup, or run the job again."


class InternalError(Unavailable):
    code, status = "internal_error", 500
    title = "The service has a bug"
    docs = "The service's log has the traceback under the request's id."
    default_remedy = "Report it with the request id."


class StartUp(RomeError):
    pass


class SettingsInvalid(StartUp):
    code = "settings_invalid"
    title = "A setting is unknown or has a wrong value"
    docs = "Settings are ROME_* environment variables; see the settings page."
    default_remedy = "Correct the variable named in the detail."


class SchemaMismatch(StartUp):
    code = "schema_mismatch"
    title = "The database's schema is not the one this version works with"
    docs = "An older schema can be upgraded; a newer one belongs to a newer version of the service."
    default_remedy = "Run `rome db upgrade`."


class StateDirBusy(StartUp):
    code = "state_dir_busy"
    title = "Another `rome serve` uses this state folder"
    docs = "One embedded service per folder; a lock file in it says which process."
    default_remedy = "Stop the other process, or set ROME_STATE_DIR to another folder."


class StateDirUnusable(StartUp):
    code = "state_dir_unusable"
    title = "The state folder cannot be made or written"
    docs = "The service keeps its database, blobs and scratch there."
    default_remedy = "Set ROME_STATE_DIR to a folder you may write."


class PortInUse(StartUp):
    code = "port_in_use"
    title = "The port is taken"
    docs = "Another program listens on that address."
    default_remedy = "Stop it, or set ROME_PORT to a free port."


class JobFailure(RomeError):
    pass


class DatasetMissing(JobFailure):
    code, status = "dataset_missing", 422
    title = "The dataset's files are not under the data root"
    docs = "Datasets are read by name under ROME_DATA_ROOT."
    default_remedy = "Put the files under ROME_DATA_ROOT; GET /v1/datasets says which."


class DatasetDamaged(JobFailure):
    code, status = "dataset_damaged", 422
    title = "The dataset's files cannot be read as what they claim to be"
    docs = "A file is cut short, or its content differs from its format."
    default_remedy = "Fetch the files again."


class DatasetInvalid(JobFailure):
    code, status = "dataset_invalid", 422
    title = "The dataset does not have the form that datasets need"
    docs = "Arrays or images of your own have another type, size, range or place than asked for."
    default_remedy = "Write the file again, or change the folder, as the detail says."


class DatasetUnknown(JobFailure):
    code, status = "dataset_unknown", 422
    title = "There is no dataset of that name"
    docs = "GET /v1/datasets lists the names."
    default_remedy = "Name one of those, or npz:NAME or folder:NAME for images of your own."


class ClassTooSmall(JobFailure):
    code, status = "class_too_small", 422
    title = "A class has fewer images than the job asks for"
    docs = "Each class gives its own images, and `ipc` of them were asked for."
    default_remedy = "Lower `ipc`, or take a larger dataset."


class SizeNotDivisible(JobFailure):
    code, status = "size_not_divisible", 422
    title = "The images cannot be divided into smaller ones"
    docs = "With `factor` above 1 an image holds several smaller ones, side by side."
    default_remedy = "Set `factor` to 1."


class NetworkTooDeep(JobFailure):
    code, status = "network_too_deep", 422
    title = "The network halves the images away"
    docs = "Every block with pooling halves the side of the images."
    default_remedy = "Take a smaller depth, or a network without pooling."


class Diverged(JobFailure):
    code = "diverged"
    title = "The optimisation diverged"
    docs = (
        "The synthetic images were no longer finite numbers, or a learned step size was not "
        "positive."
    )
    default_remedy = "Lower the learning rate of the images."


class SpecInvalid(JobFailure):
    code, status = "spec_invalid", 422
    title = "The spec is not one that this version runs"
    docs = "The worker checks the spec again; it may be of another version than the API."
    default_remedy = "Run API and workers of the same version, and submit the job again."


class MethodNotInstalled(JobFailure):
    code = "method_not_installed"
    title = "The method is known but not installed where the job ran"
    docs = "A recipe names a method; its implementation is a plug-in of the workers."
    default_remedy = "Install the plug-in beside the workers."


class NoCompiler(JobFailure):
    code = "no_compiler"
    title = "The job asked for compiled passes, and there is no working compiler"
    docs = "Compiling needs a C++ compiler on the worker."
    default_remedy = "Install one, or set `compile` to `auto`."


class DeviceUnknown(JobFailure):
    code = "device_unknown"
    title = "There is no device of that name"
    docs = "Devices are `cpu`, `cuda` and `cuda:N`."
    default_remedy = "Correct ROME_DEVICE of the worker."


class DeviceMissing(JobFailure):
    code = "device_missing"
    title = "The device is not there"
    docs = "PyTorch sees fewer CUDA devices than asked for."
    default_remedy = "Set ROME_DEVICE to cpu, or repair the driver of the worker."


class OutOfMemory(JobFailure):
    code = "out_of_memory"
    title = "The job needed more memory than there is"
    docs = "It is tried again, because others may have used the memory."
    default_remedy = "Use fewer images per class, a smaller batch or pool, or a larger machine."


class InputMissing(JobFailure):
    code, status = "input_missing", 422
    title = "The run was given no file for an artifact that its spec names"
    docs = "A service always gives it; a run by hand may not."
    default_remedy = "Name an artifact that exists."


class ArtifactMissing(JobFailure):
    code, status = "artifact_missing", 422
    title = "The file of the artifact is not there"
    docs = "A synthetic set or a file of experts is read from a path."
    default_remedy = "Give the path of one that is there."


class ArtifactDamaged(JobFailure):
    code, status = "artifact_damaged", 422
    title = "The artifact cannot be read as tensors and plain containers"
    docs = (
        "Files are read without running any code that they may hold; one of experts must be whole."
    )
    default_remedy = "Take a file that torch.load reads with weights_only=True, or get it again."


class ArtifactInvalid(JobFailure):
    code, status = "artifact_invalid", 422
    title = "The artifact is no synthetic set"
    docs = "Its content lacks images or labels, or they do not fit each other."
    default_remedy = "Take the synthetic.pt of a distillation."


class ArtifactMismatch(JobFailure):
    code, status = "artifact_mismatch", 422
    title = "The artifact does not fit what the spec says about it"
    docs = "A set, or a file of experts, tells its own dataset, classes, shape and making."
    default_remedy = "Leave the field out, or name what was made of the same dataset."


class ArtifactUndescribed(JobFailure):
    code, status = "artifact_undescribed", 422
    title = "The artifact does not say what the evaluation has to know"
    docs = "Sets of other programs hold images and labels alone."
    default_remedy = "Give the field that the detail names."


class WeightsMissing(JobFailure):
    code, status = "weights_missing", 422
    title = "The file of the weights is not there"
    docs = "A trained network is read from a file with its state dict."
    default_remedy = "Give the path of a state dict."


class WeightsTooLarge(JobFailure):
    code, status = "weights_too_large", 422
    title = "The file of the weights is larger than any network there is"
    docs = "Files of weights are bounded, so that none fills the memory."
    default_remedy = "Save the network's state_dict() alone."


class WeightsDamaged(JobFailure):
    code, status = "weights_damaged", 422
    title = "The file cannot be read as weights"
    docs = "Files are read without running any code that they may hold; their values are finite."
    default_remedy = "Save them with torch.save(network.state_dict(), path), or as .safetensors."


class WeightsMismatch(JobFailure):
    code, status = "weights_mismatch", 422
    title = "The weights do not fit the network or the dataset"
    docs = "Their keys and shapes are those of one network, for one image size and class count."
    default_remedy = "Give the network that the weights are of, and the dataset it was trained on."


class WeightsUndescribed(JobFailure):
    code, status = "weights_undescribed", 422
    title = "Neither the file of the weights nor their shapes say what network they are of"
    docs = "Files of other programs hold tensors alone."
    default_remedy = "Give `network`."


class OutcomesUnreadable(JobFailure):
    code, status = "outcomes_unreadable", 422
    title = "The file cannot be read as a table of outcomes"
    docs = "Per-image outcomes are a parquet file of fixed columns that agree with each other."
    default_remedy = "Give a file that an evaluation of this version wrote, unchanged."


class ProtocolsDiffer(JobFailure):
    code, status = "protocols_differ", 422
    title = "The results were not measured alike, so they are not compared"
    docs = "A difference means something under one protocol, attack and mode, on the same images."
    default_remedy = "Evaluate both under one protocol, attack and mode, on the same test images."


class BeardLogImpossible(JobFailure):
    code, status = "beard_log_impossible", 422
    title = "The format of BEARD's logs cannot say what was measured"
    docs = "Its toolkit passes over unusual names and counts any number that stands in a line."
    default_remedy = "Change what the detail names, or leave the attack out of the log."


class BeardLogUnreadable(JobFailure):
    code, status = "beard_log_unreadable", 422
    title = "A line of the log is not in the format of BEARD's"
    docs = "A line that would be passed over is an error: else its attack would be missing."
    default_remedy = "Put right the line that the detail names."


class BeardLogIncomplete(JobFailure):
    code, status = "beard_log_incomplete", 422
    title = "The log lacks the clean line, or the model that was asked for"
    docs = "Metrics need clean accuracy; a transfer log names the models that saw the images."
    default_remedy = "Give the whole log of one evaluation, and a model in it."


class UnknownTargetRule(JobFailure):
    code, status = "unknown_target_rule", 422
    title = "There is no target rule of that name"
    docs = "Targeted attacks aim at the class that the rule names; GET /v1/attacks lists them."
    default_remedy = "Take one of the rules that the detail lists."


class TargetOutOfRange(JobFailure):
    code, status = "target_out_of_range", 422
    title = "The target rule aims at a class that the dataset does not have"
    docs = "`mod10` aims at classes 0 to 9 whatever the dataset."
    default_remedy = "Set `target_rule` to `modC`."


class AttackUnsuitable(JobFailure):
    code, status = "attack_unsuitable", 422
    title = "The attack cannot run on what it was given"
    docs = (
        "A loss may need more classes than the dataset has, some attacks have no targeted form, "
        "and the reference domain holds normalised images alone."
    )
    default_remedy = "Leave the attack out, or change the setting that the detail names."


class NothingToTransfer(JobFailure):
    code, status = "nothing_to_transfer", 422
    title = "None of the attacks crafts images in the modes asked for"
    docs = "A transfer shows images that attacks made; `clean` and `clamp` make none."
    default_remedy = "Name attacks such as `pgd`, and a mode that they have."


class ChildCrashed(JobFailure):
    code = "child_crashed"
    title = "The process that computed the job died"
    docs = "The attempt's log has its last lines; out of memory is the usual reason."
    default_remedy = "Read the attempt's log; give the job a smaller setting or a larger machine."


class Stalled(JobFailure):
    code = "stalled"
    title = "The job made no progress for too long"
    docs = "No progress for ROME_STALL_SECONDS: the child's stacks were dumped, then it was killed."
    default_remedy = "Read the attempt's log for the stacks."


class LeaseLost(JobFailure):
    code = "lease_lost"
    title = "The worker that ran the job stopped renewing its lease"
    docs = "The worker died, was cut off, or its machine went away."
    default_remedy = "Look at the worker's host; then submit the job again."


class RunExpired(JobFailure):
    code = "run_expired"
    title = "The job used up its `run_seconds`"
    docs = "The limit counts the time of all attempts together."
    default_remedy = "Submit it again with a larger `run_seconds`."


class QueueExpired(JobFailure):
    code = "queue_expired"
    title = "The job was not started before its queue deadline"
    docs = "`queue_deadline` or `max_wait_seconds` bounds the wait for a worker."
    default_remedy = "Start more workers, or submit it again with a later deadline."


class AttemptsExhausted(JobFailure):
    code = "attempts_exhausted"
    title = "The job was interrupted too often"
    docs = "Drained and suspended attempts are not charged, but their number is bounded as well."
    default_remedy = "Look at the attempts' reasons; then submit the job again."


class PublishRefused(JobFailure):
    code = "publish_refused"
    title = "The results could not be published"
    docs = "An output was not pinned, not stored, or is not what the attempt said it was."
    default_remedy = "Report it with the attempt's log."


class Fenced(RomeError):
    """The lease is no longer the caller's: stop, delete scratch, write nothing."""

    code, title = "fenced", "The lease belongs to somebody else, or to nobody"


class CancelWon(RomeError):
    """A cancel was recorded before the results; release the lease as cancelled."""

    code, title = "cancel_won", "The job was cancelled before its results were published"


def _leaves(cls: type[RomeError]) -> Iterator[type[RomeError]]:
    for sub in cls.__subclasses__():
        if sub.docs:
            yield sub
        yield from _leaves(sub)


CATALOGUE: dict[str, type[RomeError]] = {cls.code: cls for cls in _leaves(RomeError)}
"""What /v1/errors lists: code -> class. Internal signals have no docs and are not in it."""
