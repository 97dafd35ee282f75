//! `chart-readme`: brings the table of values in the chart's README up to date.

use oz_worker_tests::chart::{readme, repository};

fn main() -> std::io::Result<()> {
    std::fs::write(repository().join(readme::PATH), readme::whole())
}
