//! The ids that requests carry in the header `x-request-id`. Pure.

use hyper::header::HeaderValue;

/// The ids of the requests of one load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestIds {
    /// Every request has an id of its own: this prefix, a hyphen and the number of the request.
    Numbered(String),
    /// Every request has this id, which the user gave with `--header`.
    Fixed(HeaderValue),
}

impl RequestIds {
    /// Ids that no other load has: 8 hexadecimal digits of the random number `load` are the prefix.
    pub fn numbered(load: u32) -> Self {
        Self::Numbered(format!("{load:08x}"))
    }

    /// The id of request `index`, such as `1f0c77ab-42`.
    pub fn text(&self, index: usize) -> String {
        match self {
            Self::Numbered(prefix) => format!("{prefix}-{index}"),
            Self::Fixed(id) => String::from_utf8_lossy(id.as_bytes()).into_owned(),
        }
    }

    /// The id of request `index` as a header's value.
    pub fn header(&self, index: usize) -> HeaderValue {
        match self {
            Self::Numbered(_) => {
                HeaderValue::try_from(self.text(index)).expect("digits and hyphens are valid in a header")
            }
            Self::Fixed(id) => id.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_of_a_load_has_an_id_of_its_own_unless_the_user_gave_one() {
        let ids = RequestIds::numbered(0xab);
        assert_eq!((ids.text(7), ids.header(7)), ("000000ab-7".into(), HeaderValue::from_static("000000ab-7")));
        let fixed = RequestIds::Fixed(HeaderValue::from_static("mine"));
        assert_eq!((fixed.text(7), fixed.header(8)), ("mine".into(), HeaderValue::from_static("mine")));
    }
}
