//! Range queries over the HTTP API of Prometheus. Knows nothing of dispatchers.

use readings::prometheus::client::{Bounds, Client, Error, encoded};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// The limits of one answer. They suffice for hundreds of series with [`MAX_POINTS`] points each.
const BOUNDS: Bounds = Bounds { timeout: Duration::from_secs(60), max_bytes: 64 << 20 };

/// The largest number of points of a series that Prometheus returns for one query.
pub const MAX_POINTS: usize = 11_000;

/// The points in time of a range query, at equal distances. All times are whole seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryRange {
    /// The time of the first point.
    pub start: u64,
    /// The time from one point to the next, in seconds; at least 1.
    pub step: u64,
    /// The number of points, at least 1 and at most [`MAX_POINTS`].
    pub points: usize,
}

impl QueryRange {
    /// The time of the last point.
    pub fn end(&self) -> u64 {
        self.start + self.step * (self.points as u64 - 1)
    }

    /// The number of the point at `seconds` since 1970; `None` if there is no point at that time.
    fn index(&self, seconds: f64) -> Option<usize> {
        let index = (seconds - self.start as f64) / self.step as f64;
        (index.fract() == 0.0 && (0.0..self.points as f64).contains(&index)).then_some(index as usize)
    }
}

/// One series in the answer to a range query.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedSeries {
    /// The labels of the series, the name included.
    pub metric: BTreeMap<String, String>,
    /// The values as `(number of the point, value)`, in ascending order of points. Points without a value are left out.
    pub values: Vec<(usize, f64)>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Matrix(Vec<JsonSeries>),
}

#[derive(Deserialize)]
struct JsonSeries {
    metric: BTreeMap<String, String>,
    values: Vec<(f64, Number)>,
}

/// A number that Prometheus writes as a JSON string.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Number(f64);

impl TryFrom<String> for Number {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("{text:?} is no number"))
    }
}

/// The values of `query` at each point of `range`.
///
/// # Errors
/// If the query fails or its answer cannot be used; see [`Error`]. An answer with warnings cannot be used, since a
/// warning means that the answer may be incomplete.
pub async fn query_range(client: &Client, query: &str, range: QueryRange) -> Result<Vec<RecordedSeries>, Error> {
    let QueryRange { start, step, .. } = range;
    let path = format!("query_range?query={}&start={start}&end={}&step={step}", encoded(query), range.end());
    series(client, query, range, client.get(&path, query, "matrix", BOUNDS).await?)
}

fn series(
    client: &Client,
    query: &str,
    range: QueryRange,
    Data::Matrix(matrix): Data,
) -> Result<Vec<RecordedSeries>, Error> {
    let unusable = |reason| client.unusable(query, "matrix", reason);
    let series = matrix.into_iter().map(|JsonSeries { metric, values }| {
        let values = values.into_iter().map(|(at, value)| Some((range.index(at)?, value.0)));
        let values: Option<Vec<_>> = values.collect();
        let values = values.ok_or_else(|| unusable("it has times that the query did not request"))?;
        if values.is_sorted_by(|before, after| before.0 < after.0) {
            Ok(RecordedSeries { metric, values })
        } else {
            Err(unusable("its times are not in ascending order"))
        }
    });
    series.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::StatusCode;

    #[test]
    fn a_matrix_with_other_than_the_requested_points_is_refused() {
        let client = Client::new("http://a".parse().expect("a base"), None).expect("no token, no certificates");
        let range = QueryRange { start: 100, step: 15, points: 3 };
        assert_eq!(range.end(), 130);
        let matrix = |values: &str| -> Result<Vec<RecordedSeries>, String> {
            let body = format!(
                r#"{{"data":{{"resultType":"matrix","result":[{{"metric":{{"a":"b"}},"values":[{values}]}}]}}}}"#
            );
            let data = client.data("up", "matrix", StatusCode::OK, body.as_bytes());
            data.and_then(|data| series(&client, "up", range, data)).map_err(|error| error.to_string())
        };
        let found = matrix(r#"[100,"1"],[130.000,"+Inf"]"#).expect("a matrix");
        assert_eq!((found[0].metric["a"].as_str(), &found[0].values), ("b", &vec![(0, 1.0), (2, f64::INFINITY)]));
        assert!(matrix(r#"[115,"NaN"]"#).expect("a matrix")[0].values[0].1.is_nan());
        for (values, word) in [
            (r#"[99,"1"]"#, "did not request"),
            (r#"[101,"1"]"#, "did not request"),
            (r#"[145,"1"]"#, "did not request"),
            (r#"[-1e300,"1"]"#, "did not request"),
            (r#"[115,"1"],[100,"1"]"#, "not in ascending order"),
            (r#"[115,"1"],[115,"1"]"#, "not in ascending order"),
            (r#"[115,"many"]"#, "\"many\" is no number"),
            (r#"[115,1]"#, "no matrix"),
            (r#"[115]"#, "no matrix"),
        ] {
            let error = matrix(values).expect_err(values).to_string();
            assert!(error.contains(word), "{values}: {error}");
        }
        let vector = r#"{"data":{"resultType":"vector","result":[]}}"#;
        let outcome = client.data::<Data>("up", "matrix", StatusCode::OK, vector.as_bytes());
        assert!(outcome.err().expect("a vector").to_string().contains("no matrix"));
    }

    mod properties {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            #[test]
            fn bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
                let client = Client::new("http://a".parse().expect("a base"), None).expect("no token");
                let range = QueryRange { start: 0, step: 1, points: 9 };
                let data = client.data("up", "matrix", StatusCode::OK, &body);
                let _outcome = data.and_then(|data| series(&client, "up", range, data));
            }
        }
    }
}
