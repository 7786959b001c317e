//! Mixes plain data into one number, without writing it out as text first.
//!
//! What is equal gives the same number, also after it was written to a file and read again: structs
//! and maps are the same, numbers are told apart by sign and fraction, not by the width of their type.

use std::fmt;
use std::io;

use serde::ser::{
    self, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant,
};

/// A number that everything so far was mixed into.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fold(pub(super) u64);

/// What stands before each sort of value, so that none passes for another.
const NULL: u64 = 1;
const FALSE: u64 = 2;
const TRUE: u64 = 3;
const UNSIGNED: u64 = 4;
const SIGNED: u64 = 5;
const FLOAT: u64 = 6;
const TEXT: u64 = 7;
const LIST: u64 = 8;
const MAP: u64 = 9;
const END: u64 = 10;

impl Fold {
    /// Mixes one number in.
    pub(super) fn word(&mut self, word: u64) {
        // The multiplier of 64-bit FNV; the rotation brings high bits back down.
        self.0 = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
    }

    fn pair(&mut self, tag: u64, word: u64) {
        self.word(tag);
        self.word(word);
    }

    fn text(&mut self, text: &str) {
        self.word(TEXT);
        self.bytes(text.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        // Its length keeps apart what is cut into pieces otherwise.
        self.word(bytes.len() as u64);
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.word(u64::from_le_bytes(word.try_into().expect("a chunk has eight bytes")));
        }
        let mut last = [0; 8];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        self.word(u64::from_le_bytes(last));
    }
}

/// Text as it is written.
impl io::Write for Fold {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Data that says of itself that it cannot be mixed in; events never do.
#[derive(Debug)]
pub(super) struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl ser::Error for Refused {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self(why.to_string())
    }
}

type Done = Result<(), Refused>;

macro_rules! unsigned {
    ($($method:ident: $of:ty),*) => {
        $(fn $method(self, value: $of) -> Done {
            self.pair(UNSIGNED, u64::from(value));
            Ok(())
        })*
    };
}

macro_rules! signed {
    ($($method:ident: $of:ty),*) => {
        $(fn $method(self, value: $of) -> Done {
            self.serialize_i64(i64::from(value))
        })*
    };
}

impl ser::Serializer for &mut Fold {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    unsigned!(serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64);
    signed!(serialize_i8: i8, serialize_i16: i16, serialize_i32: i32);

    fn serialize_i64(self, value: i64) -> Done {
        // As it reads back from a file: only what is below zero has a sign.
        match u64::try_from(value) {
            Ok(value) => self.pair(UNSIGNED, value),
            Err(_) => self.pair(SIGNED, value.cast_unsigned()),
        }
        Ok(())
    }

    fn serialize_bool(self, value: bool) -> Done {
        self.word(if value { TRUE } else { FALSE });
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Done {
        self.serialize_f64(f64::from(value))
    }

    fn serialize_f64(self, value: f64) -> Done {
        self.pair(FLOAT, value.to_bits());
        Ok(())
    }

    fn serialize_char(self, value: char) -> Done {
        self.text(value.encode_utf8(&mut [0; 4]));
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Done {
        self.text(value);
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Done {
        value.serialize(self)
    }

    fn serialize_none(self) -> Done {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Done {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Done {
        self.word(NULL);
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Done {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Done {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Done {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Done {
        self.word(MAP);
        self.text(variant);
        value.serialize(&mut *self)?;
        self.word(END);
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Refused> {
        self.word(LIST);
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Refused> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Refused> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self, Refused> {
        self.text(variant);
        self.serialize_seq(None)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, Refused> {
        self.word(MAP);
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Refused> {
        self.serialize_map(None)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self, Refused> {
        self.text(variant);
        self.serialize_map(None)
    }

    fn is_human_readable(&self) -> bool {
        // Times and addresses as in the file.
        true
    }
}

macro_rules! lists {
    ($($of:ident: $method:ident),*) => {
        $(impl $of for &mut Fold {
            type Ok = ();
            type Error = Refused;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
                value.serialize(&mut **self)
            }

            fn end(self) -> Done {
                self.word(END);
                Ok(())
            }
        })*
    };
}

lists!(
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field
);

macro_rules! structs {
    ($($of:ident),*) => {
        $(impl $of for &mut Fold {
            type Ok = ();
            type Error = Refused;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Done {
                self.text(name);
                value.serialize(&mut **self)
            }

            fn end(self) -> Done {
                self.word(END);
                Ok(())
            }
        })*
    };
}

structs!(SerializeStruct, SerializeStructVariant);

impl SerializeMap for &mut Fold {
    type Ok = ();
    type Error = Refused;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Done {
        key.serialize(&mut **self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        value.serialize(&mut **self)
    }

    fn end(self) -> Done {
        self.word(END);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde::Serialize;
    use serde_json::{Value, json};

    use super::{Fold, SerializeMap, ser};

    fn folded<T: Serialize>(value: &T) -> u64 {
        let mut fold = Fold(0);
        value.serialize(&mut fold).unwrap();
        fold.0
    }

    #[test]
    fn what_differs_folds_differently() {
        let values = [
            json!(null),
            json!(false),
            json!(true),
            json!(0),
            json!(1),
            json!(-1),
            json!(u64::MAX),
            json!(1.0),
            json!(-0.0),
            json!(""),
            json!("\0"),
            json!("a"),
            json!("null"),
            json!([]),
            json!({}),
            json!([[]]),
            json!([[], []]),
            json!(["a", "b"]),
            json!(["ab"]),
            json!(["a", ["b"]]),
            json!({"a": "b"}),
            json!({"a": {"b": 1}}),
            json!({"a": {}, "b": 1}),
            json!([{"a": 1}, {"b": 2}]),
            json!([{"a": 1, "b": 2}]),
        ];
        let all: BTreeSet<u64> = values.iter().map(folded).collect();
        assert_eq!(all.len(), values.len());
    }

    #[test]
    fn a_struct_is_what_it_reads_back_as() {
        #[derive(Serialize)]
        struct Plain {
            number: i32,
            below: i8,
            part: Option<f32>,
            none: Option<u8>,
            list: Vec<(u16, char)>,
        }
        let plain =
            Plain { number: 7, below: -7, part: Some(0.5), none: None, list: vec![(1, 'ü')] };
        let read: Value = serde_json::from_str(&serde_json::to_string(&plain).unwrap()).unwrap();
        // A map read from a file is in order of name, a struct in its own.
        let ordered = ["number", "below", "part", "none", "list"];
        let mut fold = Fold(0);
        let mut map = ser::Serializer::serialize_map(&mut fold, None).unwrap();
        for name in ordered {
            map.serialize_entry(name, &read[name]).unwrap();
        }
        SerializeMap::end(map).unwrap();
        assert_eq!(folded(&plain), fold.0);
    }
}
