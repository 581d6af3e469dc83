//! Uploads: the files that configurations over HTTP name by their hash, sent in parts.
//!
//! A part is appended to `uploads/HASH.part` in the data folder. When all bytes are there, their BLAKE3 hash
//! is checked, and the file becomes an artifact. An upload that was interrupted goes on where it ended.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use dissent_storage::{ArtifactId, ArtifactStore};
use futures_util::StreamExt as _;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Mutex, mpsc};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::service::{Api, json_response};
use crate::serving::problem::Problem;

/// Folder of unfinished uploads, in the data folder.
const FOLDER: &str = "uploads";
/// Largest upload, in bytes.
const UPLOAD_BYTES_MAX: u64 = 256 << 30;
/// Largest part, in bytes.
pub(super) const PART_BYTES_MAX: usize = 64 << 20;
/// Unfinished uploads at the same time.
const UNFINISHED_MAX: usize = 256;
/// Time after which an upload without a new part is removed.
const STALE: Duration = Duration::from_secs(7 * 86_400);
/// Space that uploads leave on the disk, in bytes: the log needs it.
const SPACE_LEFT: u64 = 2 << 30;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(upload)).routes(routes!(show, append))
}

/// How far an upload is.
#[derive(Debug, Serialize, ToSchema)]
struct Upload {
    /// The BLAKE3 hash.
    artifact: String,
    /// Bytes that are here.
    received: u64,
    /// Whether the file is complete, and its hash is right.
    complete: bool,
}

/// How far an upload is.
#[utoipa::path(
    get, path = "/api/v1/artifacts/{hash}", tag = "artifacts",
    params(("hash" = String, Path, description = "BLAKE3 of the whole file, 64 hex digits")),
    responses(
        (status = 200, description = "The upload; `received` is 0 before its first part", body = Upload),
        (status = 400, description = "No hash"),
    )
)]
async fn show(State(api): State<Api>, Path(hash): Path<String>) -> Result<Response, Problem> {
    let id = parse(&hash)?;
    let (artifacts, folder) = (api.service()?.artifacts.clone(), api.data_dir().join(FOLDER));
    let found = tokio::task::spawn_blocking(move || look(&artifacts, &folder, &id)).await;
    respond(&found.map_err(Problem::internal)?.map_err(Problem::internal)?)
}

/// Append a part to an upload.
///
/// `Upload-Offset` is the number of bytes before the part, and `Upload-Length` that of the whole file. A part
/// that does not continue the upload is refused with `received`. After the last part the hash is checked; a
/// wrong file is discarded.
#[utoipa::path(
    patch, path = "/api/v1/artifacts/{hash}", tag = "artifacts",
    params(
        ("hash" = String, Path, description = "BLAKE3 of the whole file, 64 hex digits"),
        ("Upload-Offset" = u64, Header), ("Upload-Length" = u64, Header),
    ),
    request_body(content = String, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "The upload", body = Upload),
        (status = 400, description = "A header is missing, or no hash"),
        (status = 409, description = "The part does not continue the upload: `received` says where it is"),
        (status = 413, description = "The part or the file is too large"),
        (status = 422, description = "The file has another hash: it is discarded"),
        (status = 507, description = "Too little space on the disk"),
    )
)]
async fn append(
    State(api): State<Api>,
    Path(hash): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    /// One part at a time is written, so that no two extend the same file.
    static WRITING: Mutex<()> = Mutex::const_new(());
    let id = parse(&hash)?;
    let (offset, length) = (number(&headers, "upload-offset")?, number(&headers, "upload-length")?);
    if length > UPLOAD_BYTES_MAX || offset > length {
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("at most {UPLOAD_BYTES_MAX} bytes")));
    }
    let (artifacts, folder) = (api.service()?.artifacts.clone(), api.data_dir().join(FOLDER));
    let _writing = WRITING.lock().await;
    let (pieces, received) = mpsc::channel(4);
    let writing =
        tokio::task::spawn_blocking(move || write(&artifacts, &folder, &id, (offset, length), received));
    let mut stream = body.into_data_stream();
    let mut bytes = 0;
    let mut cut = None;
    while let Some(piece) = stream.next().await {
        let Ok(piece) = piece else {
            cut = Some(Problem::new(StatusCode::BAD_REQUEST, "incomplete request body: continue the upload"));
            break;
        };
        bytes += piece.len();
        if bytes > PART_BYTES_MAX {
            let reason = format!("a part has at most {PART_BYTES_MAX} bytes");
            cut = Some(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, reason));
            break;
        }
        // The writer has refused the part.
        if pieces.send(piece).await.is_err() {
            break;
        }
    }
    drop(pieces);
    let written = writing.await.map_err(Problem::internal)?;
    match (written.map_err(Problem::internal)?, cut) {
        (Err(refused), _) => Err(refused.problem()),
        (Ok(_), Some(cut)) => Err(cut),
        (Ok(upload), None) => respond(&upload),
    }
}

/// Upload a file of at most 64 MiB in one request. The answer has its hash, which the client need not
/// compute.
#[utoipa::path(
    post, path = "/api/v1/artifacts", tag = "artifacts",
    request_body(content = String, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "The upload", body = Upload),
        (status = 413, description = "The file is too large: send it in parts"),
        (status = 507, description = "Too little space on the disk"),
    )
)]
async fn upload(State(api): State<Api>, body: Body) -> Result<Response, Problem> {
    let bytes = axum::body::to_bytes(body, PART_BYTES_MAX).await.map_err(|_| {
        let reason =
            format!("the file has more than {PART_BYTES_MAX} bytes, or is incomplete: send it in parts");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, reason)
    })?;
    let (artifacts, folder) = (api.service()?.artifacts.clone(), api.data_dir().to_owned());
    let stored = tokio::task::spawn_blocking(move || {
        if crate::files::available_space(&folder).is_ok_and(|left| left < SPACE_LEFT + bytes.len() as u64) {
            return Ok(Err(Refused::NoSpace));
        }
        let id = artifacts.put_bytes(&bytes)?;
        anyhow::Ok(Ok(complete(&id, bytes.len() as u64)))
    });
    match stored.await.map_err(Problem::internal)?.map_err(Problem::internal)? {
        Ok(upload) => respond(&upload),
        Err(refused) => Err(refused.problem()),
    }
}

/// Why a part is refused.
enum Refused {
    Elsewhere { received: u64 },
    TooMuch,
    OtherHash,
    NoSpace,
    TooMany,
}

impl Refused {
    fn problem(self) -> Problem {
        match self {
            Self::Elsewhere { received } => {
                let reason = format!("the part does not continue the upload, which has {received} bytes");
                Problem::new(StatusCode::CONFLICT, reason).with("received", json!(received))
            }
            Self::TooMuch => {
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the part exceeds Upload-Length: it is discarded")
            }
            Self::OtherHash => Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "the file has another hash, so it is discarded: send it again, or correct the hash",
            ),
            Self::NoSpace => {
                Problem::new(StatusCode::INSUFFICIENT_STORAGE, "too little space on the disk of the server")
            }
            Self::TooMany => Problem::too_many("too many unfinished uploads: finish others first", 60),
        }
    }
}

fn write(
    artifacts: &ArtifactStore,
    folder: &FilePath,
    id: &ArtifactId,
    (offset, length): (u64, u64),
    mut pieces: mpsc::Receiver<axum::body::Bytes>,
) -> anyhow::Result<Result<Upload, Refused>> {
    if artifacts.contains(id) {
        return Ok(Ok(complete(id, length)));
    }
    std::fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let path = part(folder, id);
    let received = size(&path)?;
    if received != offset {
        return Ok(Err(Refused::Elsewhere { received }));
    }
    if received == 0 && !has_room(folder)? {
        return Ok(Err(Refused::TooMany));
    }
    let left = crate::files::available_space(folder).ok();
    if left.is_some_and(|left| left < (length - offset).saturating_add(SPACE_LEFT)) {
        return Ok(Err(Refused::NoSpace));
    }
    let failed = || format!("failed to write {}", path.display());
    let mut file =
        OpenOptions::new().create(true).truncate(false).write(true).open(&path).with_context(failed)?;
    file.seek(SeekFrom::Start(offset)).with_context(failed)?;
    let mut written = offset;
    while let Some(piece) = pieces.blocking_recv() {
        if written + piece.len() as u64 > length {
            file.set_len(offset).with_context(failed)?;
            return Ok(Err(Refused::TooMuch));
        }
        file.write_all(&piece).with_context(failed)?;
        written += piece.len() as u64;
    }
    file.sync_all().with_context(failed)?;
    if written < length {
        return Ok(Ok(Upload { artifact: id.to_string(), received: written, complete: false }));
    }
    finish(artifacts, id, &path, length)
}

/// Makes a whole upload an artifact, if its hash is right.
fn finish(
    artifacts: &ArtifactStore,
    id: &ArtifactId,
    path: &FilePath,
    length: u64,
) -> anyhow::Result<Result<Upload, Refused>> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
    hasher.update_reader(file).with_context(|| format!("failed to read {}", path.display()))?;
    let is_right = ArtifactId::from(hasher.finalize()) == *id;
    if is_right {
        artifacts.put_file(path)?;
    }
    std::fs::remove_file(path).with_context(|| format!("failed to remove {}", path.display()))?;
    Ok(if is_right { Ok(complete(id, length)) } else { Err(Refused::OtherHash) })
}

fn look(artifacts: &ArtifactStore, folder: &FilePath, id: &ArtifactId) -> anyhow::Result<Upload> {
    if artifacts.contains(id) {
        let bytes = std::fs::metadata(artifacts.path(id)).map_or(0, |found| found.len());
        return Ok(complete(id, bytes));
    }
    Ok(Upload { artifact: id.to_string(), received: size(&part(folder, id))?, complete: false })
}

fn complete(id: &ArtifactId, received: u64) -> Upload {
    Upload { artifact: id.to_string(), received, complete: true }
}

fn part(folder: &FilePath, id: &ArtifactId) -> PathBuf {
    folder.join(format!("{id}.part"))
}

fn size(path: &FilePath) -> anyhow::Result<u64> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(found.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).with_context(|| format!("failed to look at {}", path.display())),
    }
}

/// Removes stale uploads. Returns whether a further one may begin.
fn has_room(folder: &FilePath) -> anyhow::Result<bool> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))?;
    let mut unfinished = 0;
    for entry in entries.filter_map(Result::ok) {
        let changed = entry.metadata().and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        if changed.elapsed().is_ok_and(|age| age > STALE) && std::fs::remove_file(entry.path()).is_ok() {
            continue;
        }
        unfinished += 1;
    }
    Ok(unfinished < UNFINISHED_MAX)
}

fn parse(hash: &str) -> Result<ArtifactId, Problem> {
    let bad = |_| Problem::new(StatusCode::BAD_REQUEST, "hash: send the BLAKE3 of the file, 64 hex digits");
    hash.parse().map_err(bad)
}

fn number(headers: &HeaderMap, name: &str) -> Result<u64, Problem> {
    let sent = headers.get(name).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    sent.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, format!("{name}: send a number of bytes")))
}

fn respond(upload: &Upload) -> Result<Response, Problem> {
    let body = serde_json::to_value(upload).map_err(Problem::internal)?;
    Ok(json_response(&body).into_response())
}
