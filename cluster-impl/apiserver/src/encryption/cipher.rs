//! The ciphers: AES-CBC with PKCS #7 padding, AES-GCM, and XSalsa20 with Poly1305 (NaCl's secretbox).
//!
//! AES-GCM also vouches for the key of the store under which a value lies; the others, as upstream, do not.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{AesGcm, Nonce};
use crypto_secretbox::XSalsa20Poly1305;

/// A cipher with its key.
pub(crate) enum Cipher {
    Cbc(Vec<u8>),
    Gcm(Box<Gcm>),
    Secretbox(Box<XSalsa20Poly1305>),
}

pub(crate) enum Gcm {
    Aes128(AesGcm<Aes128, U12>),
    Aes192(AesGcm<Aes192, U12>),
    Aes256(AesGcm<Aes256, U12>),
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher")
    }
}

impl Cipher {
    /// A cipher by its provider's name; `None` if the key has not the right length.
    pub(crate) fn new(provider: &str, key: &[u8]) -> Option<Self> {
        match provider {
            "aescbc" => matches!(key.len(), 16 | 24 | 32).then(|| Self::Cbc(key.to_vec())),
            "aesgcm" => {
                let gcm = match key.len() {
                    16 => Gcm::Aes128(AesGcm::new_from_slice(key).ok()?),
                    24 => Gcm::Aes192(AesGcm::new_from_slice(key).ok()?),
                    _ => Gcm::Aes256(AesGcm::new_from_slice(key).ok()?),
                };
                Some(Self::Gcm(Box::new(gcm)))
            }
            "secretbox" => {
                XSalsa20Poly1305::new_from_slice(key).ok().map(|one| Self::Secretbox(Box::new(one)))
            }
            _ => None,
        }
    }

    /// How many random bytes each value takes.
    pub(crate) fn nonce_bytes(&self) -> usize {
        match self {
            Self::Cbc(_) => 16,
            Self::Gcm(_) => 12,
            Self::Secretbox(_) => 24,
        }
    }

    /// Encrypts a value that lies under `path`.
    pub(crate) fn seal(&self, nonce: &[u8], path: &[u8], plain: &[u8]) -> Result<Vec<u8>, String> {
        let failed = |error: aes_gcm::aead::Error| error.to_string();
        match self {
            Self::Cbc(key) => {
                let sealed = match key.len() {
                    16 => cbc::Encryptor::<Aes128>::new_from_slices(key, nonce)
                        .map(|cipher| cipher.encrypt_padded_vec_mut::<Pkcs7>(plain)),
                    24 => cbc::Encryptor::<Aes192>::new_from_slices(key, nonce)
                        .map(|cipher| cipher.encrypt_padded_vec_mut::<Pkcs7>(plain)),
                    _ => cbc::Encryptor::<Aes256>::new_from_slices(key, nonce)
                        .map(|cipher| cipher.encrypt_padded_vec_mut::<Pkcs7>(plain)),
                };
                sealed.map_err(|error| error.to_string())
            }
            Self::Gcm(gcm) => {
                let (nonce, payload) =
                    (Nonce::from_slice(nonce), Payload { msg: plain, aad: path });
                match &**gcm {
                    Gcm::Aes128(gcm) => gcm.encrypt(nonce, payload),
                    Gcm::Aes192(gcm) => gcm.encrypt(nonce, payload),
                    Gcm::Aes256(gcm) => gcm.encrypt(nonce, payload),
                }
                .map_err(failed)
            }
            Self::Secretbox(secretbox) => {
                secretbox.encrypt(crypto_secretbox::Nonce::from_slice(nonce), plain).map_err(failed)
            }
        }
    }

    /// Decrypts nonce and ciphertext; `None` if they are not of this key, or were changed.
    pub(crate) fn open(&self, path: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_at_checked(self.nonce_bytes())?;
        match self {
            Self::Cbc(key) => match key.len() {
                16 => cbc::Decryptor::<Aes128>::new_from_slices(key, nonce)
                    .ok()?
                    .decrypt_padded_vec_mut::<Pkcs7>(rest)
                    .ok(),
                24 => cbc::Decryptor::<Aes192>::new_from_slices(key, nonce)
                    .ok()?
                    .decrypt_padded_vec_mut::<Pkcs7>(rest)
                    .ok(),
                _ => cbc::Decryptor::<Aes256>::new_from_slices(key, nonce)
                    .ok()?
                    .decrypt_padded_vec_mut::<Pkcs7>(rest)
                    .ok(),
            },
            Self::Gcm(gcm) => {
                let (nonce, payload) = (Nonce::from_slice(nonce), Payload { msg: rest, aad: path });
                match &**gcm {
                    Gcm::Aes128(gcm) => gcm.decrypt(nonce, payload),
                    Gcm::Aes192(gcm) => gcm.decrypt(nonce, payload),
                    Gcm::Aes256(gcm) => gcm.decrypt(nonce, payload),
                }
                .ok()
            }
            Self::Secretbox(secretbox) => {
                secretbox.decrypt(crypto_secretbox::Nonce::from_slice(nonce), rest).ok()
            }
        }
    }
}
