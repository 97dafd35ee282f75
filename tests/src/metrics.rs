//! Prometheus text format 0.0.4, read strictly: what `/metrics` says, as families of series.

use std::collections::{BTreeMap, BTreeSet};

/// Label names and values of one series. Labels that start with `otel_scope_` are left out: every series has them.
pub type Labels = BTreeMap<String, String>;

/// Everything that one scrape said.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    /// By name as in `# TYPE`.
    pub families: BTreeMap<String, Family>,
}

#[derive(Debug, Clone, Default)]
pub struct Family {
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// `# HELP`, unescaped or empty.
    pub help: String,
    /// Series by sample name (a histogram has three) and labels.
    pub samples: BTreeMap<(String, Labels), f64>,
}

impl Scrape {
    /// Parses a scrape. Panics on text that Prometheus would not take, and on a series that is there twice.
    pub fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap_or((help, ""));
                help.clone_into(&mut scrape.families.entry(name.to_owned()).or_default().help);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap_or_else(|| panic!("a type without a kind: {line}"));
                kind.clone_into(&mut scrape.families.entry(name.to_owned()).or_default().kind);
            } else if !line.starts_with('#') {
                let (name, labels, value) = sample(line);
                let family = scrape.family_of(&name).unwrap_or_else(|| panic!("a sample before its # TYPE: {line}"));
                let before = family.samples.insert((name, labels), value);
                assert!(before.is_none(), "a series that is there twice: {line}");
            }
        }
        scrape
    }

    fn family_of(&mut self, sample: &str) -> Option<&mut Family> {
        let is_histogram = |family: &Family| family.kind == "histogram";
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| sample.strip_suffix(suffix))
            .filter(|base| self.families.get(*base).is_some_and(is_histogram));
        self.families.get_mut(base.unwrap_or(sample))
    }

    /// Value of the series with exactly these labels.
    pub fn find(&self, sample: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: Labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let key = (sample.to_owned(), labels);
        self.families.values().find_map(|family| family.samples.get(&key)).copied()
    }

    /// Value of the series with exactly these labels; panics when there is none.
    pub fn value(&self, sample: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(sample, labels).unwrap_or_else(|| panic!("no series {sample} {labels:?} in {:#?}", self.names()))
    }

    /// Sum over all series of a family, for "nothing else was counted".
    pub fn total(&self, family: &str) -> f64 {
        self.families.get(family).map_or(0.0, |family| family.samples.values().sum())
    }

    /// Names of all series, to compare two scrapes.
    pub fn series(&self) -> BTreeSet<(String, Labels)> {
        self.families.values().flat_map(|family| family.samples.keys().cloned()).collect()
    }

    fn names(&self) -> Vec<&String> {
        self.families.keys().collect()
    }
}

/// `name{a="b",c="d"} 1.0`
fn sample(line: &str) -> (String, Labels, f64) {
    let broken = || -> ! { panic!("not a sample: {line}") };
    let end = line.find(['{', ' ']).unwrap_or_else(|| broken());
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").unwrap_or_else(|| broken());
            let (value, after) = quoted(after).unwrap_or_else(|| broken());
            if !label.starts_with("otel_scope_") {
                labels.insert(label.to_owned(), value);
            }
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    let value = rest.trim();
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| broken()))
}

/// Text up to the closing quote, unescaped, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::Scrape;

    const TEXT: &str = r#"# HELP a_total What is counted
# TYPE a_total counter
a_total{otel_scope_name="x",b="quoted \"c\" \\ \n",d=""} 3
# TYPE h histogram
h_bucket{le="+Inf"} 1
h_sum 0.5
h_count 1
"#;

    #[test]
    fn reads_labels_values_and_histograms() {
        let scrape = Scrape::parse(TEXT);
        assert!((scrape.value("a_total", &[("b", "quoted \"c\" \\ \n"), ("d", "")]) - 3.0).abs() < f64::EPSILON);
        assert_eq!(scrape.families.get("h").map(|family| family.samples.len()), Some(3));
        assert_eq!(scrape.families.get("a_total").map(|family| family.help.as_str()), Some("What is counted"));
        assert_eq!(scrape.find("a_total", &[]), None);
    }

    #[test]
    #[should_panic(expected = "twice")]
    fn refuses_a_series_that_is_there_twice() {
        Scrape::parse("# TYPE a gauge\na 1\na 2\n");
    }

    #[test]
    #[should_panic(expected = "before its # TYPE")]
    fn refuses_a_sample_without_a_type() {
        Scrape::parse("a 1\n");
    }
}
