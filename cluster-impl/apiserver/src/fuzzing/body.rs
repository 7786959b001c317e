//! Bodies as clients send them: JSON and YAML, with duplicates, under every `fieldValidation`.

use machinery::fields::{self, FieldValidation, Reading};
use machinery::{Object, versions};

use super::arbitrary::Source;
use crate::config::Config;
use crate::{decode, yaml_keys};

/// The first bytes choose the kind and the media type, the others are the body.
pub(super) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let kinds: Vec<_> = versions::served().collect();
    let kind = source.pick(&kinds);
    let media_type = source.pick(&["application/json", "application/yaml", ""]);
    let body = source.rest();
    let config = Config::default();
    let read = decode::value(&config, media_type, body);
    let parsed = fields::parse(body);
    if let (Ok((parsed, _)), Ok(read), false) = (&parsed, &read, body.is_empty()) {
        assert_eq!(parsed, read, "both readers of JSON read the same");
    }
    for reading in [Reading::Anything, Reading::Object(kind), Reading::JsonPatch] {
        assert!(fields::problems(body, reading).len() <= 100);
    }
    let _ = yaml_keys::problems(body, FieldValidation::Strict);
    for value in parsed.map(|(value, _)| value).into_iter().chain(read) {
        if decode::check_nesting(&config, &value).is_err() {
            continue;
        }
        for validation in [FieldValidation::Warn, FieldValidation::Strict] {
            let _ = fields::check(kind, fields::unknown(kind, &value), validation);
        }
        let mut object = Object(value.clone());
        let _ = decode::name_kind(value, &kind.api_version(), kind.kind);
        if fields::decode(kind, &mut object).is_ok() {
            let mut again = object.clone();
            fields::decode(kind, &mut again).expect("what fits goes on to fit");
            assert_eq!(object, again, "decoding twice is decoding once");
            assert_eq!(fields::unknown(kind, &object.0), Vec::<String>::new());
        }
    }
}
