//! The styles and scripts of the pages. Their address has a hash of them, so browsers keep them.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use crate::serving::problem::Problem;

const FILES: [(&str, &str, &str); 2] = [
    ("page.css", "text/css; charset=utf-8", include_str!("static/page.css")),
    ("page.js", "text/javascript; charset=utf-8", include_str!("static/page.js")),
];

/// The hash of the files.
pub(super) fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let mut hasher = blake3::Hasher::new();
        FILES.iter().for_each(|(_, _, text)| {
            hasher.update(text.as_bytes());
        });
        hasher.finalize().to_hex().as_str().get(..16).unwrap_or_default().to_owned()
    });
    &VERSION
}

/// A file of the pages.
pub(super) async fn file(Path((asked, name)): Path<(String, String)>) -> Result<Response, Problem> {
    let found = FILES.iter().find(|(file, ..)| *file == name && asked == version());
    let (_, kind, text) = found.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "no such file"))?;
    let headers = [
        (header::CONTENT_TYPE, *kind),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, *text).into_response())
}
