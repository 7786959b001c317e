//! What proves who somebody is: certificates and requests for them, keys, tokens.

use machinery::Object;
use machinery::kinds::CERTIFICATE_SIGNING_REQUEST;
use machinery::signing::{SigningKey, Token, VerifyingKey};
use rustls_pki_types::CertificateDer;
use serde_json::json;

use super::arbitrary::Source;
use crate::authentication::{StaticTokens, x509};

/// The first byte says what the others are taken for.
pub(super) fn run(data: &[u8]) {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let mut source = Source::new(data);
    match source.byte() % 6 {
        0 => {
            let _ = SigningKey::from_pem(source.rest());
        }
        1 => {
            let keys = VerifyingKey::all_from_pem(source.rest()).unwrap_or_default();
            for key in &keys {
                let _ = (key.to_jwk(), key.id(), key.algorithm());
            }
        }
        2 => {
            let _ = x509::user(&CertificateDer::from(source.rest()));
        }
        3 => certificate_request(&STANDARD.encode(source.rest())),
        4 => {
            let pem = format!(
                "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
                STANDARD.encode(source.rest())
            );
            certificate_request(&STANDARD.encode(pem));
        }
        _ => {
            let key = SigningKey::of_seed("fuzz");
            let text = String::from_utf8_lossy(source.rest());
            token(&text, &key);
            let mut parts = text.splitn(3, '.').map(|part| URL_SAFE_NO_PAD.encode(part));
            let mut part = || parts.next().unwrap_or_default();
            token(&format!("{}.{}.{}", part(), part(), part()), &key);
            let _ = StaticTokens::parse(&text);
        }
    }
}

fn token(text: &str, key: &SigningKey) {
    if let Some(token) = Token::parse(text) {
        assert!(!token.is_signed_by([key.public()].into_iter()), "nobody can guess a signature");
    }
}

fn certificate_request(encoded: &str) {
    let mut object = Object(super::samples::plain(&CERTIFICATE_SIGNING_REQUEST));
    object.set("/spec/request", encoded);
    CERTIFICATE_SIGNING_REQUEST.prepare_new(&mut object);
    let _ = CERTIFICATE_SIGNING_REQUEST.problems(&object, None);
    let mut old = object.clone();
    old.set("/status/certificate", encoded);
    let signed = json!(encoded);
    object.set("/status/certificate", signed);
    let _ = machinery::kinds::validate_answer(&object, &old, false);
}
