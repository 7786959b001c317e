//! The `Accept` header: in which form the client wants its answer.
//!
//! JSON is what this server speaks; YAML and protobuf on request. Tables have no protobuf form.

use machinery::Status;

use crate::protobuf;

/// The language of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Language {
    Json,
    Yaml,
    Protobuf,
}

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
    pub(crate) language: Language,
    pub(crate) is_gzip: bool,
    /// Whether JSON would do as well, in the same form.
    pub(crate) takes_json: bool,
}

impl Accept {
    /// Plain JSON.
    pub(crate) const JSON: Self =
        Self { form: Form::Object, language: Language::Json, is_gzip: false, takes_json: true };

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
        let read: Vec<_> = clauses
            .iter()
            .filter(|(quality, _)| *quality > 0)
            .filter_map(|(_, clause)| read_clause(clause))
            .collect();
        let Some((form, language)) = read.first().copied() else {
            return Err(crate::status::not_acceptable());
        };
        let takes_json = read.contains(&(form, Language::Json));
        Ok(Self { form, language, is_gzip, takes_json })
    }

    /// The same for what has no protobuf form: JSON, if that is accepted, too.
    pub(crate) fn without_protobuf(self) -> Result<Self, Status> {
        match self.language {
            Language::Protobuf if !self.takes_json => Err(crate::status::not_acceptable()),
            Language::Protobuf => Ok(Self { language: Language::Json, ..self }),
            _ => Ok(self),
        }
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

fn read_clause(clause: &str) -> Option<(Form, Language)> {
    let language = match media_type(clause) {
        "application/json" | "application/*" | "*/*" => Language::Json,
        "application/yaml" => Language::Yaml,
        protobuf::MEDIA_TYPE => Language::Protobuf,
        _ => return None,
    };
    let form = match parameter(clause, "as") {
        None => Form::Object,
        Some("Table") if language == Language::Protobuf => return None,
        Some("Table") => match (parameter(clause, "g"), parameter(clause, "v")) {
            (Some("meta.k8s.io"), Some("v1")) => Form::Table("v1"),
            (Some("meta.k8s.io"), Some("v1beta1")) => Form::Table("v1beta1"),
            _ => return None,
        },
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") => {
            match (parameter(clause, "g"), parameter(clause, "v")) {
                (None | Some("meta.k8s.io"), None | Some("v1" | "v1beta1")) => Form::Metadata,
                _ => return None,
            }
        }
        Some(_) => return None,
    };
    Some((form, language))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_can_be_served_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,\
                     application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        for (accept, expected) in [
            ("", Ok((Form::Object, Language::Json))),
            ("*/*", Ok((Form::Object, Language::Json))),
            (table, Ok((Form::Table("v1"), Language::Json))),
            ("application/json;as=Table;v=v9;g=meta.k8s.io", Err(406)),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Ok((Form::Object, Language::Protobuf)),
            ),
            (
                "application/vnd.kubernetes.protobuf;stream=watch",
                Ok((Form::Object, Language::Protobuf)),
            ),
            ("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", Err(406)),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json",
                Ok((Form::Object, Language::Json)),
            ),
            ("application/yaml", Ok((Form::Object, Language::Yaml))),
            ("application/json;q=0.5,application/yaml;q=0.9", Ok((Form::Object, Language::Yaml))),
            ("text/html", Err(406)),
            ("application/json;q=0", Err(406)),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,\
                 application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Ok((Form::Metadata, Language::Protobuf)),
            ),
            ("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v9", Err(406)),
        ] {
            let read = Accept::read(accept, "");
            let told = read.map(|read| (read.form, read.language)).map_err(|error| error.code);
            assert_eq!(told, expected, "{accept}");
        }
        let read = |accept| Accept::read(accept, "").unwrap().without_protobuf();
        let both = read("application/vnd.kubernetes.protobuf,application/json").unwrap();
        assert_eq!(both.language, Language::Json);
        assert_eq!(read("application/vnd.kubernetes.protobuf").unwrap_err().code, 406);
        assert!(Accept::read("", "deflate, gzip;q=1.0").unwrap().is_gzip);
        assert!(!Accept::read("", "deflate").unwrap().is_gzip);
    }
}
