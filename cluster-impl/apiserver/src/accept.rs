//! The `Accept` header: in which form the client wants its answer.
//!
//! JSON is what this server speaks; YAML on request. Protobuf is never offered: who asks for it must
//! also accept JSON, as every known client does.

use machinery::Status;

/// What becomes of an object or a list on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is.
    Object,
    /// A Table, with the version of `meta.k8s.io` that was asked for.
    Table(&'static str),
    /// `metadata` only.
    Metadata,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accept {
    pub(crate) form: Form,
    pub(crate) is_yaml: bool,
    pub(crate) is_gzip: bool,
}

impl Accept {
    /// Plain JSON.
    pub(crate) const JSON: Self = Self { form: Form::Object, is_yaml: false, is_gzip: false };

    /// Reads `Accept` and `Accept-Encoding`; 406 if nothing in it can be served.
    pub(crate) fn read(accept: &str, encoding: &str) -> Result<Self, Status> {
        let is_gzip = encoding
            .split(',')
            .any(|one| one.split(';').next().is_some_and(|name| name.trim() == "gzip"));
        let mut clauses: Vec<_> = accept
            .split(',')
            .map(str::trim)
            .filter(|clause| !clause.is_empty())
            .map(|clause| (quality(clause), clause))
            .collect();
        if clauses.is_empty() {
            return Ok(Self { is_gzip, ..Self::JSON });
        }
        // Stable: among equals, the first that was named wins.
        clauses.sort_by_key(|(quality, _)| std::cmp::Reverse(*quality));
        clauses
            .iter()
            .find_map(|(_, clause)| read_clause(clause))
            .map(|(form, is_yaml)| Self { form, is_yaml, is_gzip })
            .ok_or_else(crate::status::not_acceptable)
    }
}

/// The parameters of a media range, `q` aside.
pub(crate) fn parameter<'c>(clause: &'c str, name: &str) -> Option<&'c str> {
    clause
        .split(';')
        .skip(1)
        .filter_map(|parameter| parameter.trim().split_once('='))
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().trim_matches('"'))
}

/// A media range without its parameters.
pub(crate) fn media_type(clause: &str) -> &str {
    clause.split(';').next().unwrap_or_default().trim()
}

/// The quality in thousandths.
fn quality(clause: &str) -> u32 {
    let quality = parameter(clause, "q").and_then(|text| text.parse::<f32>().ok()).unwrap_or(1.0);
    (quality.clamp(0.0, 1.0) * 1000.0) as u32
}

fn read_clause(clause: &str) -> Option<(Form, bool)> {
    let is_yaml = match media_type(clause) {
        "application/json" | "application/*" | "*/*" => false,
        "application/yaml" => true,
        _ => return None,
    };
    let form = match parameter(clause, "as") {
        None => Form::Object,
        Some("Table") => match (parameter(clause, "g"), parameter(clause, "v")) {
            (Some("meta.k8s.io"), Some("v1")) => Form::Table("v1"),
            (Some("meta.k8s.io"), Some("v1beta1")) => Form::Table("v1beta1"),
            _ => return None,
        },
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Form::Metadata,
        Some(_) => return None,
    };
    Some((form, is_yaml))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_can_be_served_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,\
                     application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        for (accept, expected) in [
            ("", Ok((Form::Object, false))),
            ("*/*", Ok((Form::Object, false))),
            (table, Ok((Form::Table("v1"), false))),
            ("application/json;as=Table;v=v9;g=meta.k8s.io", Err(406)),
            ("application/vnd.kubernetes.protobuf,application/json", Ok((Form::Object, false))),
            ("application/vnd.kubernetes.protobuf", Err(406)),
            ("application/yaml", Ok((Form::Object, true))),
            ("application/json;q=0.5,application/yaml;q=0.9", Ok((Form::Object, true))),
            ("text/html", Err(406)),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,\
                 application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Ok((Form::Metadata, false)),
            ),
        ] {
            let read = Accept::read(accept, "");
            let told = read.map(|read| (read.form, read.is_yaml)).map_err(|error| error.code);
            assert_eq!(told, expected, "{accept}");
        }
        assert!(Accept::read("", "deflate, gzip;q=1.0").unwrap().is_gzip);
        assert!(!Accept::read("", "deflate").unwrap().is_gzip);
    }
}
