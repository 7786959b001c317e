//! Keys that sign: the tokens of service accounts, and certificates.
//!
//! A signature is a function of key and message: P-256 by RFC 6979, RSA by PKCS #1. Nothing is drawn, so
//! a simulation that signs stays reproducible.
//! Invariant: a token's algorithm is that of the key which verifies it, whatever the token's header says;
//! so neither `none` nor a MAC over a public key ever verifies.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::pkcs8::der::Encode as _;
use p256::pkcs8::der::asn1::{BitString, Null};
use p256::pkcs8::spki::{AlgorithmIdentifier, SubjectPublicKeyInfo};
use p256::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _, ObjectIdentifier};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaPublicKeyComponents};
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The object identifier of RSA keys (RFC 8017).
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The file holds no PEM block that is a key.
    #[error("the file holds no {0} in PEM form")]
    None(&'static str),
    /// A key of another sort.
    #[error("the key is neither ECDSA on P-256 nor RSA of 2048 to 8192 bits: {0}")]
    Unfit(String),
}

/// A private key.
pub struct SigningKey {
    secret: Secret,
    public: VerifyingKey,
}

enum Secret {
    Ecdsa(p256::ecdsa::SigningKey),
    Rsa(Box<ring::rsa::KeyPair>),
}

/// A public key, and the id under which tokens name it.
#[derive(Debug, Clone)]
pub struct VerifyingKey {
    id: String,
    /// SubjectPublicKeyInfo in DER.
    info: Vec<u8>,
    public: Public,
}

#[derive(Debug, Clone)]
enum Public {
    Ecdsa(p256::ecdsa::VerifyingKey),
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.public.id).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// The first private key of a PEM file: PKCS #8, SEC 1 or PKCS #1.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let blocks = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).filter_map(Result::ok);
        for (kind, der) in blocks {
            let key = match kind {
                SectionKind::EcPrivateKey => p256::SecretKey::from_sec1_der(&der)
                    .map(|key| Self::ecdsa(key.into()))
                    .map_err(unfit),
                SectionKind::RsaPrivateKey => {
                    ring::rsa::KeyPair::from_der(&der).map_err(unfit).and_then(Self::rsa)
                }
                SectionKind::PrivateKey => match p256::ecdsa::SigningKey::from_pkcs8_der(&der) {
                    Ok(key) => Ok(Self::ecdsa(key)),
                    Err(_) => {
                        ring::rsa::KeyPair::from_pkcs8(&der).map_err(unfit).and_then(Self::rsa)
                    }
                },
                _ => continue,
            };
            return key;
        }
        Err(KeyError::None("private key"))
    }

    /// The P-256 key of a seed: for simulations, where everybody knows it.
    pub fn of_seed(text: &str) -> Self {
        let secret = Sha256::digest(text.as_bytes());
        let key = p256::ecdsa::SigningKey::from_bytes(&secret);
        Self::ecdsa(key.expect("a hash is below the curve's order but for one in 2^32"))
    }

    fn ecdsa(key: p256::ecdsa::SigningKey) -> Self {
        let public = VerifyingKey::ecdsa(*key.verifying_key());
        Self { secret: Secret::Ecdsa(key), public }
    }

    fn rsa(key: ring::rsa::KeyPair) -> Result<Self, KeyError> {
        let components = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(key.public());
        let public = VerifyingKey::rsa(components.n, components.e, key.public().as_ref())?;
        Ok(Self { secret: Secret::Rsa(Box::new(key)), public })
    }

    /// Its public half.
    pub fn public(&self) -> &VerifyingKey {
        &self.public
    }

    /// The object identifier of the signatures that [`SigningKey::sign`] makes, as certificates name it,
    /// and whether its parameters are an explicit NULL.
    pub fn algorithm(&self) -> (&'static str, bool) {
        match self.secret {
            Secret::Ecdsa(_) => ("1.2.840.10045.4.3.2", false),
            Secret::Rsa(_) => ("1.2.840.113549.1.1.11", true),
        }
    }

    /// A signature as certificates hold it.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.secret {
            Secret::Ecdsa(key) => {
                let signature: p256::ecdsa::DerSignature = key.sign(message);
                signature.as_bytes().to_vec()
            }
            Secret::Rsa(key) => rsa(key, message),
        }
    }

    /// A JSON Web Token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        let header = json!({"alg": self.public.algorithm(), "kid": self.public.id});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let signature = match &self.secret {
            Secret::Ecdsa(key) => {
                let signature: p256::ecdsa::Signature = key.sign(signed.as_bytes());
                signature.to_bytes().to_vec()
            }
            Secret::Rsa(key) => rsa(key, signed.as_bytes()),
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Signs by PKCS #1 v1.5, which draws nothing from the randomness that the interface asks for.
fn rsa(key: &ring::rsa::KeyPair, message: &[u8]) -> Vec<u8> {
    let mut signature = vec![0; key.public().modulus_len()];
    let unused = ring::rand::SystemRandom::new();
    key.sign(&RSA_PKCS1_SHA256, &unused, message, &mut signature)
        .expect("the buffer has the length of the modulus");
    signature
}

fn unfit(error: impl std::fmt::Display) -> KeyError {
    KeyError::Unfit(error.to_string())
}

impl VerifyingKey {
    /// Every key of a PEM file: public keys, certificates, and the public halves of private keys.
    pub fn all_from_pem(pem: &[u8]) -> Result<Vec<Self>, KeyError> {
        let mut keys = Vec::new();
        for (kind, der) in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).filter_map(Result::ok) {
            match kind {
                SectionKind::PublicKey => keys.push(Self::from_info(&der)?),
                SectionKind::Certificate => {
                    let (_, certificate) = X509Certificate::from_der(&der).map_err(unfit)?;
                    keys.push(Self::from_info(certificate.public_key().raw)?);
                }
                SectionKind::PrivateKey
                | SectionKind::RsaPrivateKey
                | SectionKind::EcPrivateKey => keys.push(SigningKey::from_pem(pem)?.public),
                _ => {}
            }
        }
        if keys.is_empty() { Err(KeyError::None("public key")) } else { Ok(keys) }
    }

    fn from_info(der: &[u8]) -> Result<Self, KeyError> {
        use x509_parser::public_key::PublicKey;
        let (_, info) = x509_parser::x509::SubjectPublicKeyInfo::from_der(der).map_err(unfit)?;
        match info.parsed().map_err(unfit)? {
            PublicKey::EC(point) => p256::ecdsa::VerifyingKey::from_sec1_bytes(point.data())
                .map(Self::ecdsa)
                .map_err(unfit),
            PublicKey::RSA(key) => {
                let trimmed = |bytes: &[u8]| {
                    bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<_>>()
                };
                let inner = &info.subject_public_key.data;
                Self::rsa(trimmed(key.modulus), trimmed(key.exponent), inner)
            }
            _ => Err(KeyError::Unfit("another algorithm".to_owned())),
        }
    }

    fn ecdsa(key: p256::ecdsa::VerifyingKey) -> Self {
        let info = key.to_public_key_der().expect("a point of the curve can be written");
        let info = info.as_bytes().to_vec();
        Self { id: id(&info), info, public: Public::Ecdsa(key) }
    }

    fn rsa(modulus: Vec<u8>, exponent: Vec<u8>, inner: &[u8]) -> Result<Self, KeyError> {
        let info = SubjectPublicKeyInfo {
            algorithm: AlgorithmIdentifier { oid: RSA, parameters: Some(Null) },
            subject_public_key: BitString::from_bytes(inner).map_err(unfit)?,
        };
        let info = info.to_der().map_err(unfit)?;
        Ok(Self { id: id(&info), info, public: Public::Rsa { modulus, exponent } })
    }

    /// The id under which tokens name it: a hash.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// SubjectPublicKeyInfo in DER.
    pub fn info(&self) -> &[u8] {
        &self.info
    }

    /// Such as `ES256`.
    pub fn algorithm(&self) -> &'static str {
        match self.public {
            Public::Ecdsa(_) => "ES256",
            Public::Rsa { .. } => "RS256",
        }
    }

    /// As a JSON Web Key.
    pub fn to_jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut key = json!({"use": "sig", "kid": self.id, "alg": self.algorithm()});
        match &self.public {
            Public::Ecdsa(public) => {
                let point = public.to_encoded_point(false);
                let coordinate = |bytes: Option<&p256::FieldBytes>| {
                    encode(bytes.map(|bytes| bytes.as_slice()).unwrap_or_default())
                };
                key["kty"] = "EC".into();
                key["crv"] = "P-256".into();
                key["x"] = coordinate(point.x()).into();
                key["y"] = coordinate(point.y()).into();
            }
            Public::Rsa { modulus, exponent } => {
                key["kty"] = "RSA".into();
                key["n"] = encode(modulus).into();
                key["e"] = encode(exponent).into();
            }
        }
        key
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.public {
            Public::Ecdsa(key) => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            Public::Rsa { modulus, exponent } => {
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
        }
    }
}

fn id(info: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(info))
}

/// A token taken apart; nothing in it is to be believed before [`Token::is_signed_by`] holds.
#[derive(Debug, Clone)]
pub struct Token<'t> {
    header: Value,
    /// What it says.
    pub claims: Value,
    signed: &'t str,
    signature: Vec<u8>,
}

impl<'t> Token<'t> {
    /// Takes a token in compact form apart; `None` if it has not that form.
    pub fn parse(text: &'t str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let read = |part: &str| -> Option<Value> {
            let value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()?;
            Some(value).filter(Value::is_object)
        };
        let (header, claims) = (read(header)?, read(claims)?);
        // What must be understood is not understood here.
        if header.get("crit").is_some() || header.get("b64").is_some() {
            return None;
        }
        Some(Self { header, claims, signed, signature: URL_SAFE_NO_PAD.decode(signature).ok()? })
    }

    /// Whether one of the keys signed it, in that key's own algorithm. The key that the token names is
    /// tried alone; if it names none of them, all are.
    pub fn is_signed_by<'k>(&self, keys: impl Iterator<Item = &'k VerifyingKey> + Clone) -> bool {
        let named = self.header["kid"].as_str().unwrap_or_default();
        let is_known = keys.clone().any(|key| key.id == named);
        keys.filter(|key| !is_known || key.id == named)
            .filter(|key| self.header["alg"] == key.algorithm())
            .any(|key| key.verifies(self.signed.as_bytes(), &self.signature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that nobody uses, made with openssl.
    const RSA_KEY: &str = include_str!("signing/test_rsa.pem");
    const RSA_PUBLIC: &str = include_str!("signing/test_rsa_public.pem");

    fn is_signed(token: &str, key: &VerifyingKey) -> bool {
        Token::parse(token).is_some_and(|token| token.is_signed_by([key].into_iter()))
    }

    fn forged(header: &Value, claims: &Value, signature: &[u8]) -> String {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (header, claims) = (header.to_string(), claims.to_string());
        format!("{}.{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()), encode(signature))
    }

    #[test]
    fn tokens_are_signed_the_same_every_time_and_verified() {
        let rsa = SigningKey::from_pem(RSA_KEY.as_bytes()).unwrap();
        for key in [SigningKey::of_seed("a"), rsa] {
            let token = key.token(&json!({"sub": "jane"}));
            assert_eq!(token, key.token(&json!({"sub": "jane"})), "nothing is drawn");
            assert!(is_signed(&token, key.public()));
            assert!(!is_signed(&token, SigningKey::of_seed("b").public()));
            assert_eq!(Token::parse(&token).unwrap().claims["sub"], "jane");
            for end in 0..token.len() {
                assert!(!is_signed(&token[..end], key.public()), "cut at {end}");
            }
            for at in 0..token.len() {
                let mut bytes = token.clone().into_bytes();
                bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                let changed = String::from_utf8(bytes).unwrap();
                assert!(!is_signed(&changed, key.public()), "changed at {at}");
            }
        }
    }

    #[test]
    fn a_tokens_header_does_not_choose_the_algorithm() {
        let key = SigningKey::of_seed("a");
        let claims = json!({"sub": "system:admin"});
        let mac = |message: &str| {
            let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.public().info());
            ring::hmac::sign(&secret, message.as_bytes()).as_ref().to_vec()
        };
        for alg in ["none", "None", "HS256", "RS256", "ES384", ""] {
            let header = json!({"alg": alg, "kid": key.public().id()});
            let unsigned = forged(&header, &claims, b"");
            assert!(!is_signed(&unsigned, key.public()), "{alg}");
            let signed = unsigned.trim_end_matches('.');
            let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac(signed)));
            assert!(!is_signed(&token, key.public()), "{alg}");
        }
        for wrong in ["", ".", "..", "...", "a.b.c", "e30.e30.", "e30.e30.e30", "\u{0}.\u{0}.\u{0}"]
        {
            assert!(!is_signed(wrong, key.public()), "{wrong:?}");
        }
        let good = key.token(&claims);
        assert!(!is_signed(&format!("{good}="), key.public()), "padding");
        assert!(!is_signed(&format!("{good}.e30"), key.public()), "four parts");
    }

    #[test]
    fn keys_are_read_from_every_usual_form() {
        let private = SigningKey::from_pem(RSA_KEY.as_bytes()).unwrap();
        let public = VerifyingKey::all_from_pem(RSA_PUBLIC.as_bytes()).unwrap().remove(0);
        assert_eq!(private.public().id(), public.id());
        assert_eq!(private.public().to_jwk(), public.to_jwk());
        assert_eq!(public.to_jwk()["e"], "AQAB");
        let both = VerifyingKey::all_from_pem(format!("{RSA_PUBLIC}{RSA_KEY}").as_bytes()).unwrap();
        assert_eq!(both.len(), 2);
        assert_eq!(
            VerifyingKey::all_from_pem(b"nothing").unwrap_err().to_string(),
            "the file holds no public key in PEM form"
        );
        assert!(SigningKey::from_pem(RSA_PUBLIC.as_bytes()).is_err());
        let jwk = SigningKey::of_seed("a").public().to_jwk();
        assert_eq!((jwk["kty"].as_str(), jwk["x"].as_str().unwrap().len()), (Some("EC"), 43));
    }
}
