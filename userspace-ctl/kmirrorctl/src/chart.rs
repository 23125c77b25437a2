// SPDX-License-Identifier: GPL-2.0

//! A recording as a picture: coverage above, cost below.

use crate::error::{Error, Kind, Result};
use crate::history::History;
use crate::units;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{register_font, text_anchor, FontStyle};
use std::path::Path;

const SIZE: (u32, u32) = (960, 540);
const COVERAGE: RGBColor = RGBColor(0x1b, 0x9e, 0x77);
const CPU: RGBColor = RGBColor(0xd9, 0x5f, 0x02);
const COPIED: RGBColor = RGBColor(0x3b, 0x6f, 0xb6);
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const PALE: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);

/// Fonts that are usual, the first that is there being taken.
const FONTS: [&str; 6] = [
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans.ttf",
    "/usr/share/fonts/TTF/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf",
    "/usr/share/fonts/liberation-sans/LiberationSans-Regular.ttf",
    "/usr/share/fonts/truetype/noto/NotoSans-Regular.ttf",
];

/// Draws it into a file, SVG or PNG by its name.
pub fn draw(history: &History, path: &Path) -> Result<()> {
    if history.samples.len() < 2 {
        return Err(Error::usage(
            "there are fewer than two samples to be drawn; record for longer with --time",
        ));
    }
    font()?;
    match path.extension().and_then(|end| end.to_str()) {
        Some("svg") => onto(SVGBackend::new(path, SIZE).into_drawing_area(), history),
        Some("png") => onto(BitMapBackend::new(path, SIZE).into_drawing_area(), history),
        _ => return Err(wrong_name(path)),
    }
    .map_err(|error| {
        Error::failed(format!(
            "{} cannot be drawn: {error}; is the directory there, and not full?",
            path.display()
        ))
    })
}

/// Fails for a name that is none of a picture's, so before anything is recorded.
pub fn check_name(path: &Path) -> Result<()> {
    match path.extension().and_then(|end| end.to_str()) {
        Some("svg" | "png") => Ok(()),
        _ => Err(wrong_name(path)),
    }
}

fn wrong_name(path: &Path) -> Error {
    Error::usage(format!(
        "{} is no name of a picture; let it end in .svg or .png",
        path.display()
    ))
}

/// Has plotters know a font. It lives as long as the program.
fn font() -> Result<()> {
    let bytes = FONTS.iter().find_map(|path| std::fs::read(path).ok());
    let known = bytes.and_then(|bytes| {
        register_font(
            "sans-serif",
            FontStyle::Normal,
            Box::leak(bytes.into_boxed_slice()),
        )
        .ok()
    });
    known.ok_or_else(|| {
        Error::new(
            Kind::Setup,
            "there is no font to write with; install DejaVu Sans (fonts-dejavu-core)",
        )
    })
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn onto<DB: DrawingBackend>(area: DrawingArea<DB, Shift>, history: &History) -> Drawn
where
    DB::ErrorType: 'static,
{
    area.fill(&WHITE)?;
    let title = format!("Coverage and cost of {}", history.cgroup);
    area.draw(&Text::new(
        title,
        (24, 18),
        ("sans-serif", 22).into_font().color(&INK),
    ))?;
    let about = format!(
        "average {}, worst {}, interval {} ms, {} protected",
        units::percent(history.average_ppm()),
        units::percent(history.worst_ppm()),
        history.interval_ms,
        history
            .samples
            .last()
            .map_or("nothing".into(), |s| units::bytes(s.protected_bytes)),
    );
    area.draw(&Text::new(
        about,
        (24, 48),
        ("sans-serif", 14).into_font().color(&INK),
    ))?;
    let (_, below) = area.split_vertically(72);
    let (upper, lower) = below.split_vertically(236);
    coverage(&upper, history)?;
    cost(&lower, history)?;
    area.present()?;
    Ok(())
}

fn coverage<DB: DrawingBackend>(area: &DrawingArea<DB, Shift>, history: &History) -> Drawn
where
    DB::ErrorType: 'static,
{
    let end = end(history);
    let points: Vec<(f64, f64)> = history
        .samples
        .iter()
        .map(|sample| (sample.seconds, f64::from(sample.coverage_ppm) / 1e4))
        .collect();
    // From 0, so that no dip looks deeper than it is; but a dip of one in a thousand must be seen too.
    let worst = f64::from(history.worst_ppm()) / 1e4;
    let floor = if worst >= 99.0 {
        99.0
    } else if worst >= 90.0 {
        90.0
    } else {
        0.0
    };
    let mut chart = ChartBuilder::on(area)
        .margin_right(72)
        .margin_left(12)
        .x_label_area_size(8)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..end, floor..100.0 + (100.0 - floor) * 0.02)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_labels(5)
        .y_desc("pages covered")
        .y_label_formatter(&|value| percent(*value, floor))
        .light_line_style(WHITE)
        .bold_line_style(PALE)
        .axis_style(PALE)
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .draw()?;
    chart.draw_series(
        AreaSeries::new(points, floor, COVERAGE.mix(0.18)).border_style(COVERAGE.stroke_width(2)),
    )?;
    Ok(())
}

fn percent(value: f64, floor: f64) -> String {
    if floor >= 99.0 {
        format!("{value:.1} %")
    } else {
        format!("{value:.0} %")
    }
}

fn cost<DB: DrawingBackend>(area: &DrawingArea<DB, Shift>, history: &History) -> Drawn
where
    DB::ErrorType: 'static,
{
    let end = end(history);
    let most = |value: fn(&crate::history::Sample) -> f64, least: f64| {
        history.samples.iter().map(value).fold(least, f64::max) * 1.1
    };
    // The first sample has nothing before it.
    let after = history.samples.iter().skip(1);
    let cpu: Vec<(f64, f64)> = after.clone().map(|s| (s.seconds, s.cpu * 100.0)).collect();
    let copied: Vec<(f64, f64)> = after.map(|s| (s.seconds, mib(s.copied))).collect();
    let mut chart = ChartBuilder::on(area)
        .margin_right(12)
        .margin_left(12)
        .margin_top(10)
        .margin_bottom(8)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .right_y_label_area_size(60)
        .build_cartesian_2d(0.0..end, 0.0..most(|s| s.cpu * 100.0, 1.0))?
        .set_secondary_coord(0.0..end, 0.0..most(|s| mib(s.copied), 1.0));
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(10)
        .y_labels(5)
        .x_desc("seconds")
        .y_desc("CPU of the thread")
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_label_formatter(&|value| format!("{value:.1} %"))
        .light_line_style(WHITE)
        .bold_line_style(PALE)
        .axis_style(PALE)
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .draw()?;
    chart
        .configure_secondary_axes()
        .y_labels(5)
        .y_desc("copied, MiB/s")
        .y_label_formatter(&|value| format!("{value:.1}"))
        .axis_style(PALE)
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .draw()?;
    chart
        .draw_secondary_series(AreaSeries::new(copied, 0.0, COPIED.mix(0.25)).border_style(COPIED))?
        .label("copied")
        .legend(|(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], COPIED.mix(0.5).filled()));
    chart
        .draw_series(LineSeries::new(cpu, CPU.stroke_width(2)))?
        .label("CPU")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 14, y)], CPU.stroke_width(2)));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(PALE)
        .label_font(
            ("sans-serif", 13)
                .into_font()
                .color(&INK)
                .pos(text_anchor::Pos::default()),
        )
        .draw()?;
    Ok(())
}

/// Pages a second as MiB a second.
fn mib(pages: f64) -> f64 {
    pages * units::PAGE as f64 / f64::from(1 << 20)
}

fn end(history: &History) -> f64 {
    history
        .samples
        .last()
        .map_or(1.0, |sample| sample.seconds.max(0.001))
}
