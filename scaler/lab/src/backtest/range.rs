//! Range queries over Prometheus' HTTP API. Knows nothing of dispatchers.

use scaler::observe::prometheus::client::{Bounds, Client, Error, encoded};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Limits of one answer: enough for hundreds of series of [`MAX_POINTS`].
const BOUNDS: Bounds = Bounds { timeout: Duration::from_secs(60), max_bytes: 64 << 20 };

/// Most points of a series that Prometheus returns for one query.
pub const MAX_POINTS: usize = 11_000;

/// Points in time at equal distances, whole seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryRange {
    /// The first point.
    pub start: u64,
    /// From one point to the next; at least 1.
    pub step: u64,
    /// Number of points, at least 1 and at most [`MAX_POINTS`].
    pub points: usize,
}

impl QueryRange {
    /// The last point.
    pub fn end(&self) -> u64 {
        self.start + self.step * (self.points as u64 - 1)
    }

    /// Number of the point at `seconds`; `None` if there is none.
    fn index(&self, seconds: f64) -> Option<usize> {
        let index = (seconds - self.start as f64) / self.step as f64;
        (index.fract() == 0.0 && (0.0..self.points as f64).contains(&index)).then_some(index as usize)
    }
}

/// One series in the answer to a range query.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedSeries {
    /// Labels, the name included.
    pub metric: BTreeMap<String, String>,
    /// Number of each point, ascending, with its value; points without a value are left out.
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

/// A number in quotes, as Prometheus writes it.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Number(f64);

impl TryFrom<String> for Number {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("{text:?} is no number"))
    }
}

/// The values that `query` has at each point of `range`.
///
/// # Errors
/// See [`Error`]. An answer with warnings is an error, since a warning says that the answer is partial.
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
        let values = values.ok_or_else(|| unusable("it holds times that were not asked for"))?;
        if values.is_sorted_by(|before, after| before.0 < after.0) {
            Ok(RecordedSeries { metric, values })
        } else {
            Err(unusable("its times do not ascend"))
        }
    });
    series.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::StatusCode;

    #[test]
    fn a_matrix_has_only_the_requested_points() {
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
            (r#"[99,"1"]"#, "not asked for"),
            (r#"[101,"1"]"#, "not asked for"),
            (r#"[145,"1"]"#, "not asked for"),
            (r#"[-1e300,"1"]"#, "not asked for"),
            (r#"[115,"1"],[100,"1"]"#, "do not ascend"),
            (r#"[115,"1"],[115,"1"]"#, "do not ascend"),
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
