//! Statements that a party signs with the key that its peers know it by. Ed25519; each kind of statement is signed in a
//! context of its own, so that none can pass for another.

use std::fmt;

use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::ids::bytes_from_hex;

/// Why a signature or a key is not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SigningError {
    /// Not what this key signed.
    #[error("the signature is not of this key over these words")]
    Signature,
    /// Not a key.
    #[error("not an Ed25519 key in PKCS #8")]
    Key,
    /// No random numbers.
    #[error("the system has no random numbers")]
    Random,
}

/// A kind of statement.
pub trait Statement: Serialize {
    /// What sets it apart from all other kinds. Changes with its form.
    const CONTEXT: &'static str;
}

/// A party's secret key.
pub struct SecretKey(Ed25519KeyPair);

impl SecretKey {
    /// A new key and its PKCS #8 form, which is to be kept secret.
    pub fn generate() -> Result<(Self, Zeroizing<Vec<u8>>), SigningError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| SigningError::Random)?;
        let bytes = Zeroizing::new(document.as_ref().to_vec());
        Ok((Self::from_pkcs8(&bytes)?, bytes))
    }

    /// A key from its PKCS #8 form.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self, SigningError> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes).map(Self).map_err(|_| SigningError::Key)
    }

    /// What others know it by.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    /// Signs a statement.
    pub fn sign<S: Statement>(&self, body: S) -> Signed<S> {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.0.sign(&words(&body)).as_ref());
        Signed { body, signature: Signature(signature) }
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}

/// A statement and who stands by it. Nothing in it may be believed before [`Signed::verify`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "S: DeserializeOwned"))]
#[serde(deny_unknown_fields)]
pub struct Signed<S: Statement> {
    /// What is said.
    pub body: S,
    /// By whom.
    pub signature: Signature,
}

impl<S: Statement> Signed<S> {
    /// The statement, if it is this key's.
    pub fn verify(&self, key: &PublicKey) -> Result<&S, SigningError> {
        let key = UnparsedPublicKey::new(&ED25519, key.0);
        let genuine = key.verify(&words(&self.body), &self.signature.0);
        genuine.map(|()| &self.body).map_err(|_| SigningError::Signature)
    }
}

/// The words that are signed: context, then the statement, whose form says where it ends.
fn words<S: Statement>(body: &S) -> Vec<u8> {
    let context = format!("trefoil {}\0", S::CONTEXT).into_bytes();
    postcard::to_extend(body, context).expect("a statement holds nothing that cannot be encoded")
}

/// Declares byte strings of a fixed length whose text is hexadecimal.
macro_rules! hex_bytes {
    ($(#[$doc:meta])* $name:ident, $length:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $length]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let wrong = || serde::de::Error::custom(concat!(stringify!($length), " bytes in hexadecimal are due"));
                bytes_from_hex(&text).map(Self).ok_or_else(wrong)
            }
        }
    };
}

hex_bytes! {
    /// What a party is known by.
    PublicKey, 32
}
hex_bytes! {
    /// Of an Ed25519 key.
    Signature, 64
}
hex_bytes! {
    /// SHA-256 of something.
    Hash, 32
}
hex_bytes! {
    /// A number that is used once.
    Nonce, 16
}

impl Nonce {
    /// A fresh one.
    pub fn random() -> Result<Self, SigningError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|_| SigningError::Random)?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Serialize, Deserialize, Debug)]
    struct Promise(String);
    impl Statement for Promise {
        const CONTEXT: &'static str = "promise";
    }

    #[derive(Clone, Serialize, Deserialize, Debug)]
    struct Threat(String);
    impl Statement for Threat {
        const CONTEXT: &'static str = "threat";
    }

    #[test]
    fn a_signature_is_of_one_key_one_text_and_one_kind() {
        let ((key, bytes), (other, _)) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        let signed = key.sign(Promise("to pay".into()));
        assert!(signed.verify(&key.public()).is_ok());
        assert_eq!(SecretKey::from_pkcs8(&bytes).unwrap().public(), key.public());
        assert_eq!(signed.verify(&other.public()).unwrap_err(), SigningError::Signature);
        let altered = Signed { body: Promise("to pay twice".into()), ..signed.clone() };
        assert!(altered.verify(&key.public()).is_err());
        let disguised = Signed { body: Threat(signed.body.0.clone()), signature: signed.signature };
        assert!(disguised.verify(&key.public()).is_err());
    }

    #[test]
    fn a_secret_key_does_not_print() {
        let (key, bytes) = SecretKey::generate().unwrap();
        let hidden: String = bytes[16..24].iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!format!("{key:?}").contains(&hidden));
    }
}
