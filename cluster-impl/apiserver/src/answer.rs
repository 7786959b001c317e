//! Answers, and how they are written in the form that the client wants.

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream::BoxStream;
use http::{HeaderName, HeaderValue, Response, header};
use machinery::table::{IncludeObject, TableOptions, partial, scale_table, table};
use machinery::{Kind, Object, Status, versions};
use serde_json::{Value, json};
use std::io::Write;

use crate::accept::{Accept, Form, Language};
use crate::body::Body;
use crate::codec::{Stored, write_json};
use crate::protobuf;

/// Smaller answers are not worth compressing; upstream's threshold.
const GZIP_BYTES_MIN: usize = 128 * 1024;

const JSON: &str = "application/json";
const PROTOBUF_WATCH: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// What a request came to.
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) content: Content,
    pub(crate) headers: Vec<(HeaderName, String)>,
}

/// What an answer holds.
pub(crate) enum Content {
    /// One object of this kind.
    Object(&'static Kind, Stored),
    /// A list.
    List(List),
    /// Something that has only one form.
    Value(Value),
    /// Bytes of this media type.
    Raw(String, Bytes),
    /// A watch.
    Stream(BoxStream<'static, Bytes>),
}

/// A list of stored objects.
pub(crate) struct List {
    pub(crate) kind: &'static Kind,
    pub(crate) items: Vec<Stored>,
    pub(crate) revision: i64,
    /// Where the list goes on; empty if it is complete.
    pub(crate) continue_token: String,
    /// How many objects are still to come, if that is known.
    pub(crate) remaining: Option<usize>,
}

impl Answer {
    /// An answer without further headers.
    pub(crate) fn new(code: u16, content: Content) -> Self {
        Self { code, content, headers: Vec::new() }
    }

    /// A value with code 200.
    pub(crate) fn value(value: Value) -> Self {
        Self::new(200, Content::Value(value))
    }

    /// The `Status` of a success.
    pub(crate) fn success(code: u16, details: Value) -> Self {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        });
        if code == 201 {
            status["code"] = code.into();
        }
        if !details.is_null() {
            status["details"] = details;
        }
        Self::new(code, Content::Value(status))
    }
}

/// What decides how tables are written, beside `Accept`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    pub(crate) accept: Accept,
    pub(crate) include: IncludeObject,
    pub(crate) now: env::Timestamp,
    /// Whether a table says its columns.
    pub(crate) has_headings: bool,
}

impl Style {
    fn table(self, version: &'static str) -> TableOptions<'static> {
        let Self { include, now, has_headings: headings, .. } = self;
        TableOptions { version, include, headings, now }
    }
}

/// Writes an answer, or the failure to come to one.
pub(crate) fn render(answer: Result<Answer, Status>, style: Style) -> Response<Body> {
    let written = answer.and_then(|answer| write(answer, style));
    written.unwrap_or_else(|status| {
        let mut response = refuse(&status);
        if style.accept.language == Language::Protobuf
            && let Ok(bytes) = protobuf::object(&status.to_value())
        {
            *response.body_mut() = Body::whole(bytes);
            let media_type = HeaderValue::from_static(protobuf::MEDIA_TYPE);
            response.headers_mut().insert(header::CONTENT_TYPE, media_type);
        }
        response
    })
}

/// A `Status` as an answer.
pub(crate) fn refuse(status: &Status) -> Response<Body> {
    let mut response = Response::new(Body::whole(status.to_value().to_string()));
    *response.status_mut() =
        http::StatusCode::from_u16(status.code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    if let Some(after_s) = status.details["retryAfterSeconds"].as_u64() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(after_s));
    }
    response
}

fn write(answer: Answer, style: Style) -> Result<Response<Body>, Status> {
    let Answer { code, content, headers } = answer;
    let mut response = match content {
        Content::Raw(media_type, bytes) => whole(&media_type, bytes, style.accept.is_gzip),
        Content::Stream(pieces) => {
            let mut response = Response::new(Body::stream(pieces));
            let media_type = match style.accept.language {
                Language::Protobuf => PROTOBUF_WATCH,
                _ => JSON,
            };
            let media_type = HeaderValue::from_static(media_type);
            response.headers_mut().insert(header::CONTENT_TYPE, media_type);
            response
        }
        content => {
            let mut out = Vec::with_capacity(1024);
            let language = write_content(&mut out, content, style)?;
            match language {
                Language::Yaml => {
                    let value: Value = serde_json::from_slice(&out).map_err(Status::internal)?;
                    let yaml = serde_yaml::to_string(&value).map_err(Status::internal)?;
                    whole("application/yaml", yaml.into(), style.accept.is_gzip)
                }
                Language::Protobuf => whole(protobuf::MEDIA_TYPE, out.into(), style.accept.is_gzip),
                Language::Json => whole(JSON, out.into(), style.accept.is_gzip),
            }
        }
    };
    *response.status_mut() = http::StatusCode::from_u16(code).map_err(Status::internal)?;
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().append(name, value);
        }
    }
    Ok(response)
}

fn whole(media_type: &str, bytes: Bytes, accepts_gzip: bool) -> Response<Body> {
    let packed = (accepts_gzip && bytes.len() > GZIP_BYTES_MIN).then(|| gzip(&bytes)).flatten();
    let is_packed = packed.is_some();
    let mut response = Response::new(Body::whole(packed.unwrap_or(bytes)));
    let headers = response.headers_mut();
    if let Ok(media_type) = HeaderValue::from_str(media_type) {
        headers.insert(header::CONTENT_TYPE, media_type);
    }
    if is_packed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

fn gzip(bytes: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

/// Writes what an answer holds; tells in which language.
fn write_content(out: &mut Vec<u8>, content: Content, style: Style) -> Result<Language, Status> {
    let language = style.accept.language;
    match content {
        Content::Object(kind, stored) => write_object(out, kind, &stored, style)?,
        Content::List(list) if language == Language::Protobuf => {
            let objects = objects(&list.items)?;
            let objects: Vec<_> = objects.into_iter().map(|one| served(list.kind, one)).collect();
            let (api_version, name) = (list.kind.api_version(), list.kind.list_kind());
            let named = match style.accept.form {
                Form::Metadata => ("meta.k8s.io/v1", "PartialObjectMetadataList"),
                _ => (api_version.as_str(), name.as_str()),
            };
            let bytes = protobuf::list(named, &list_metadata(&list), &objects);
            out.extend(bytes.map_err(Status::internal)?);
        }
        Content::List(list) => match style.accept.form {
            Form::Object => write_list(out, &list)?,
            Form::Table(version) => {
                let objects = objects(&list.items)?;
                let metadata = list_metadata(&list);
                write_json(out, &table(list.kind, &objects, metadata, style.table(version)));
            }
            Form::Metadata => {
                let objects = objects(&list.items)?;
                write_json(
                    out,
                    &json!({
                        "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                        "metadata": list_metadata(&list),
                        "items": objects
                            .into_iter()
                            .map(|one| partial(&served(list.kind, one), "v1"))
                            .collect::<Vec<_>>(),
                    }),
                );
            }
        },
        Content::Value(value) if language == Language::Protobuf => match protobuf::object(&value) {
            Ok(bytes) => out.extend(bytes),
            // What has no protobuf form is told in JSON, as its media type says.
            Err(_) => {
                write_json(out, &value);
                return Ok(Language::Json);
            }
        },
        Content::Value(value) => match (style.accept.form, value["kind"].as_str()) {
            (Form::Table(version), Some("Scale")) => {
                write_json(out, &scale_table(&value, style.table(version)));
            }
            _ => write_json(out, &value),
        },
        Content::Raw(..) | Content::Stream(_) => {}
    }
    Ok(language)
}

/// Writes one object in the form that the client wants.
pub(crate) fn write_object(
    out: &mut Vec<u8>,
    kind: &'static Kind,
    stored: &Stored,
    style: Style,
) -> Result<(), Status> {
    if style.accept.language == Language::Protobuf {
        let object = served(kind, stored.object()?);
        let bytes = match style.accept.form {
            Form::Metadata => protobuf::object(&partial(&object, "v1")),
            Form::Object | Form::Table(_) => protobuf::object(&object.0),
        };
        out.extend(bytes.map_err(Status::internal)?);
        return Ok(());
    }
    match style.accept.form {
        Form::Object => write_served(out, kind, stored)?,
        Form::Table(version) => {
            let object = stored.object()?;
            let metadata = json!({"resourceVersion": stored.revision.to_string()});
            write_json(out, &table(kind, [&object], metadata, style.table(version)));
        }
        Form::Metadata => write_json(out, &partial(&served(kind, stored.object()?), "v1")),
    }
    Ok(())
}

/// An object in the form of its served kind.
fn served(kind: &Kind, mut object: Object) -> Object {
    versions::from_stored(kind, &mut object);
    object
}

/// Writes a stored object in the form of its served kind; as a rule that is how it is stored.
fn write_served(out: &mut Vec<u8>, kind: &Kind, stored: &Stored) -> Result<(), Status> {
    if versions::of(kind).is_none() {
        return stored.write(out);
    }
    write_json(out, &served(kind, stored.object()?).0);
    Ok(())
}

fn objects(items: &[Stored]) -> Result<Vec<Object>, Status> {
    items.iter().map(Stored::object).collect()
}

fn list_metadata(list: &List) -> Value {
    let mut metadata = json!({"resourceVersion": list.revision.to_string()});
    if !list.continue_token.is_empty() {
        metadata["continue"] = list.continue_token.as_str().into();
    }
    if let Some(remaining) = list.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    metadata
}

fn write_list(out: &mut Vec<u8>, list: &List) -> Result<(), Status> {
    let head = format!(
        r#"{{"kind":"{}","apiVersion":"{}","metadata":"#,
        list.kind.list_kind(),
        list.kind.api_version(),
    );
    out.extend_from_slice(head.as_bytes());
    write_json(out, &list_metadata(list));
    out.extend_from_slice(br#","items":["#);
    for (at, item) in list.items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_served(out, list.kind, item)?;
    }
    out.extend_from_slice(b"]}");
    Ok(())
}
