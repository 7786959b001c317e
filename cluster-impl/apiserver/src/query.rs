//! The query of a URL: percent-decoded pairs with typed readers.

use machinery::Status;

/// The pairs of a URL's query, in order.
#[derive(Debug, Default, Clone)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads what follows the question mark.
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(name), decode(value))
            })
            .collect();
        Self { pairs }
    }

    /// The first value of a name, or "".
    pub(crate) fn text(&self, name: &str) -> &str {
        self.find(name).unwrap_or_default()
    }

    /// The first value of a name.
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All values of a name.
    pub(crate) fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.pairs.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A boolean as upstream reads it: absent is false.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.optional_flag(name).unwrap_or_default()
    }

    /// A boolean that may be absent. As upstream (`Convert_Slice_string_To_bool` of apimachinery's
    /// runtime/conversion.go) only `false` and `0` are false: any other value is true, also none.
    pub(crate) fn optional_flag(&self, name: &str) -> Option<bool> {
        self.find(name).map(|text| text != "0" && !text.eq_ignore_ascii_case("false"))
    }

    /// An integer; `None` if absent. An empty value is no integer, as for `strconv.ParseInt`.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, Status> {
        let Some(text) = self.find(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            Status::bad_request(format!(
                "invalid value for query parameter {name}: \"{text}\" is not an integer"
            ))
        })
    }
}

/// Undoes percent-encoding; what is not valid UTF-8 becomes the replacement character.
pub(crate) fn decode(text: &str) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    decode_bytes(text, true)
}

/// Undoes percent-encoding in a path, where a plus is a plus.
pub(crate) fn decode_path(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    decode_bytes(text, false)
}

fn decode_bytes(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 2;
            }
            (b'+', _) if plus_is_space => decoded.push(b' '),
            (byte, _) => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded() {
        let query = Query::parse("labelSelector=app%3Dweb%2Ctier+in+%28a%29&watch&limit=5&x=100%");
        assert_eq!(query.text("labelSelector"), "app=web,tier in (a)");
        assert!(query.flag("watch"));
        assert!(!query.flag("absent"));
        assert_eq!(query.integer("limit"), Ok(Some(5)));
        assert_eq!(query.text("x"), "100%");
        assert!(query.integer("x").is_err());
        assert_eq!(query.all("limit").count(), 1);
    }

    #[test]
    fn only_false_and_zero_are_false() {
        for (text, expected) in [
            ("", None),
            ("watch", Some(true)),
            ("watch=", Some(true)),
            ("watch=1", Some(true)),
            ("watch=null", Some(true)),
            ("watch=f", Some(true)),
            ("watch=00", Some(true)),
            ("watch=0", Some(false)),
            ("watch=FaLsE", Some(false)),
            ("watch=false&watch=true", Some(false)),
        ] {
            assert_eq!(Query::parse(text).optional_flag("watch"), expected, "{text}");
        }
    }

    #[test]
    fn an_empty_value_is_no_integer() {
        for (text, expected) in [
            ("", Ok(None)),
            ("limit=-9223372036854775808", Ok(Some(i64::MIN))),
            ("limit=%2B5", Ok(Some(5))),
            ("limit=+5", Err(400)),
            ("limit=", Err(400)),
            ("limit", Err(400)),
            ("limit=9223372036854775808", Err(400)),
            ("limit= 1", Err(400)),
            ("limit=0x1", Err(400)),
        ] {
            let found = Query::parse(text).integer("limit").map_err(|status| status.code);
            assert_eq!(found, expected, "{text}");
        }
    }
}
