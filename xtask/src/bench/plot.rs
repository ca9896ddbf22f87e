//! Bars, for people who would rather look.

use super::{Row, peer::PREFIX};
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use std::path::Path;

/// Measures of a drawing, in pixels.
const WIDTH: u32 = 900;
const BAR_HEIGHT: u32 = 26;
const AXIS_HEIGHT: u32 = 72;
const NAME_WIDTH: u32 = 180;
const MARGIN: u32 = 12;

/// Draws the rows counted in instructions to `instructions.svg` in `folder`, how near each
/// row with a target comes to it to `targets.svg`, and how much more KVM takes, where it
/// was measured, to `kvm.svg`.
///
/// # Errors
/// A file cannot be written.
pub(super) fn draw(rows: &[Row], folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let ticks = rows.iter().filter(|row| row.unit == super::TICKS);
    // The slow ones would leave nothing to see of the others, and on larger machines they
    // are the same.
    let bars: Vec<_> = ticks
        .filter(|row| row.value < 2000.0 && !row.name.starts_with(PREFIX))
        .filter(|row| !row.is_scaled())
        .map(|row| (row.name.as_str(), row.value, row.target))
        .collect();
    bar_chart(&folder.join("instructions.svg"), "instructions", &bars)?;
    let shares = rows.iter().filter_map(|row| {
        let target = row.target.filter(|target| *target > 0.0)?;
        Some((row.name.as_str(), row.value / target, Some(1.0)))
    });
    let shares: Vec<_> = shares.collect();
    bar_chart(&folder.join("targets.svg"), "measured / target", &shares)?;
    let times = rows.iter().filter_map(|row| {
        let name = row.name.strip_prefix(PREFIX)?;
        let ours = rows.iter().find(|row| row.name == name)?;
        Some((name, row.value / ours.value, None))
    });
    let times: Vec<_> = times.collect();
    match times.is_empty() {
        true => Ok(()),
        false => bar_chart(&folder.join("kvm.svg"), "KVM / Tilevisor", &times),
    }
}

/// Each bar has a name, a length, and a mark for what it should be at most.
fn bar_chart(path: &Path, unit: &str, bars: &[(&str, f64, Option<f64>)]) -> Result<()> {
    let longest = bars
        .iter()
        .flat_map(|(_, value, target)| [*value, target.unwrap_or(0.0)])
        .fold(0.0, f64::max);
    let height = AXIS_HEIGHT + BAR_HEIGHT * u32::try_from(bars.len())?;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    let wrong = |error: &dyn std::fmt::Display| anyhow!("{}: {error}", path.display());
    area.fill(&WHITE).map_err(|error| wrong(&error))?;
    let mut chart = ChartBuilder::on(&area)
        .margin(MARGIN)
        .x_label_area_size(AXIS_HEIGHT - 2 * MARGIN)
        .y_label_area_size(NAME_WIDTH)
        .build_cartesian_2d(0.0..longest * 1.05, (0..bars.len()).into_segmented())
        .map_err(|error| wrong(&error))?;
    // Downwards from the first, as in the table.
    let row = |index: usize| bars.len().saturating_sub(index + 1);
    let name = |at: &SegmentValue<usize>| match at {
        SegmentValue::CenterOf(at) if *at < bars.len() => bars[row(*at)].0.to_owned(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(bars.len())
        .y_label_formatter(&name)
        .label_style(("sans-serif", 18))
        .x_desc(unit)
        .draw()
        .map_err(|error| wrong(&error))?;
    let edges = |index: usize| [row(index), row(index) + 1].map(SegmentValue::Exact);
    let drawn = (0..).zip(bars).map(|(index, (_, value, target))| {
        let met = target.is_none_or(|target| *value <= target);
        let colour = if met { BLUE.mix(0.6) } else { RED.mix(0.7) };
        let [from, to] = edges(index);
        let mut bar = Rectangle::new([(0.0, from), (*value, to)], colour.filled());
        bar.set_margin(4, 4, 0, 0);
        bar
    });
    chart.draw_series(drawn).map_err(|error| wrong(&error))?;
    let marks = (0..).zip(bars).filter_map(|(index, (_, _, target))| {
        let target = (*target)?;
        Some(PathElement::new(
            edges(index).map(|edge| (target, edge)),
            BLACK,
        ))
    });
    chart.draw_series(marks).map_err(|error| wrong(&error))?;
    area.present().map_err(|error| wrong(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_has_its_name_and_only_missed_targets_are_red() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.svg");
        bar_chart(
            &path,
            "unit",
            &[("first", 1.0, Some(2.0)), ("second", 3.0, None)],
        )
        .unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("first") && text.contains("second") && text.contains("unit"));
        assert!(!text.contains("#FF0000"));
        bar_chart(&path, "unit", &[("first", 3.0, Some(2.0))]).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains("#FF0000"));
    }
}
