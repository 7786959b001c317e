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

    /// A boolean as upstream reads it: present without value is true.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Status> {
        self.optional_flag(name).map(Option::unwrap_or_default)
    }

    /// A boolean that may be absent.
    pub(crate) fn optional_flag(&self, name: &str) -> Result<Option<bool>, Status> {
        match self.find(name) {
            None => Ok(None),
            Some("" | "1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(Some(false)),
            Some(other) => Err(Status::bad_request(format!(
                "invalid value for query parameter {name}: \"{other}\" is not a boolean"
            ))),
        }
    }

    /// An integer; `None` if absent or empty.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, Status> {
        match self.text(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!(
                    "invalid value for query parameter {name}: \"{text}\" is not an integer"
                ))
            }),
        }
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
        assert_eq!(query.flag("watch"), Ok(true));
        assert_eq!(query.flag("absent"), Ok(false));
        assert_eq!(query.integer("limit"), Ok(Some(5)));
        assert_eq!(query.text("x"), "100%");
        assert!(query.integer("x").is_err());
        assert!(query.flag("limit").is_err());
        assert_eq!(query.all("limit").count(), 1);
    }
}
