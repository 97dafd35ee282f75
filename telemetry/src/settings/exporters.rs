//! The list of exporters of one signal.

use crate::settings::problem::VariableProblem;
use crate::settings::reader::Reader;
use crate::signal::OtelSignal;

#[derive(Debug, Default)]
pub(super) struct Exporters {
    pub(super) prometheus: bool,
    pub(super) console: bool,
    pub(super) otlp: bool,
}

impl Reader<'_> {
    pub(super) fn exporters(&mut self, signal: OtelSignal, default: &str) -> Exporters {
        let variable = signal.exporter_variable();
        let list = self.get(variable).unwrap_or_else(|| default.to_owned());
        let mut exporters = Exporters::default();
        for exporter in list.split(',').map(str::trim).filter(|exporter| !exporter.is_empty()) {
            match exporter.to_ascii_lowercase().as_str() {
                "prometheus" if signal == OtelSignal::Metrics => exporters.prometheus = true,
                "console" => exporters.console = true,
                "otlp" => exporters.otlp = true,
                "none" => {}
                _ => self.problems.push(VariableProblem::UnknownExporter { signal, value: exporter.to_owned() }),
            }
        }
        exporters
    }
}
