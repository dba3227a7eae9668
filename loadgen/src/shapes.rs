//! Labelled pictures drawn from a seed: one textured shape on a busy background, as a JPEG.
//! What the bundled model was trained on, and what it is tested with, so every right answer is known.

use image::{ImageEncoder, codecs::jpeg::JpegEncoder};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use std::f32::consts::{PI, TAU};

/// Labels in class order: `class = 3 * shape + texture`.
pub const LABELS: [&str; 12] = [
    "plain circle",
    "striped circle",
    "dotted circle",
    "plain triangle",
    "striped triangle",
    "dotted triangle",
    "plain square",
    "striped square",
    "dotted square",
    "plain star",
    "striped star",
    "dotted star",
];

/// How a picture may look; every range is drawn from uniformly.
#[derive(Debug, Clone)]
pub struct Style {
    /// Length of the shorter side, pixels.
    pub short_side: std::ops::RangeInclusive<u32>,
    /// JPEG quality, 1 to 100.
    pub quality: std::ops::RangeInclusive<u8>,
}

impl Default for Style {
    fn default() -> Self {
        Self { short_side: 180..=480, quality: 45..=95 }
    }
}

/// A drawn picture and its right answer.
#[derive(Debug, Clone)]
pub struct Drawing {
    /// The encoded file.
    pub jpeg: Vec<u8>,
    /// Index into [`LABELS`].
    pub class: usize,
}

/// Draws picture `index` of the series that `seed` names. Classes take turns, so every series is balanced.
pub fn draw(seed: u64, index: u64, style: &Style) -> Drawing {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index);
    let class = (index % LABELS.len() as u64) as usize;
    let scene = Scene::sample(&mut rng, class, style);
    let pixels = scene.render(&mut rng);
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, rng.random_range(style.quality.clone()))
        .write_image(&pixels, scene.width, scene.height, image::ExtendedColorType::Rgb8)
        .expect("an RGB buffer of its own size encodes into memory");
    Drawing { jpeg, class }
}

type Colour = [f32; 3];

#[derive(Clone, Copy)]
enum Shape {
    Circle,
    Triangle,
    Square,
    Star,
}

#[derive(Clone, Copy)]
enum Texture {
    Plain,
    Striped,
    Dotted,
}

enum Background {
    Plain,
    Gradient { direction: f32, to: Colour },
    Mottled { grid: Vec<f32>, cells: usize, to: Colour },
}

struct Speck {
    x: f32,
    y: f32,
    radius: f32,
    colour: Colour,
}

struct Scene {
    width: u32,
    height: u32,
    shape: Shape,
    texture: Texture,
    centre: (f32, f32),
    /// Circumradius of the shape, pixels.
    radius: f32,
    rotation: f32,
    texture_rotation: f32,
    /// Distance between stripes or dots, pixels.
    period: f32,
    ink: Colour,
    pattern: Colour,
    paper: Colour,
    background: Background,
    specks: Vec<Speck>,
    /// Standard deviation of the sensor noise, levels of 255.
    noise: f32,
}

impl Scene {
    fn sample(rng: &mut ChaCha8Rng, class: usize, style: &Style) -> Self {
        let short = rng.random_range(style.short_side.clone());
        let long = (short as f32 * rng.random_range(1.0..1.5)) as u32;
        let (width, height) = if rng.random() { (short, long) } else { (long, short) };
        let side = short as f32;
        let radius = side * rng.random_range(0.22..0.40);
        // The evaluation transform keeps the central 7/8 of the shorter side: stay (almost) inside it.
        let play = (side * 0.4375 - radius * 0.95).max(0.0);
        let centre = (
            width as f32 / 2.0 + rng.random_range(-1.0..1.0) * play,
            height as f32 / 2.0 + rng.random_range(-1.0..1.0) * play,
        );
        let paper = colour(rng);
        let ink = contrasting(rng, &[(paper, 110.0)]);
        let pattern = contrasting(rng, &[(ink, 130.0), (paper, 70.0)]);
        let background = match rng.random_range(0..3) {
            0 => Background::Plain,
            1 => Background::Gradient { direction: rng.random_range(0.0..TAU), to: near(rng, paper, 45.0) },
            _ => {
                let cells = rng.random_range(3..9);
                let grid = (0..(cells + 1) * (cells + 1)).map(|_| rng.random()).collect();
                Background::Mottled { grid, cells, to: near(rng, paper, 45.0) }
            }
        };
        let specks = (0..rng.random_range(0..12))
            .map(|_| Speck {
                x: rng.random_range(0.0..width as f32),
                y: rng.random_range(0.0..height as f32),
                radius: side * rng.random_range(0.008..0.03),
                colour: colour(rng),
            })
            .collect();
        Self {
            width,
            height,
            shape: [Shape::Circle, Shape::Triangle, Shape::Square, Shape::Star][class / 3],
            texture: [Texture::Plain, Texture::Striped, Texture::Dotted][class % 3],
            centre,
            radius,
            rotation: rng.random_range(0.0..TAU),
            texture_rotation: rng.random_range(0.0..TAU),
            period: radius * rng.random_range(0.30..0.45),
            ink,
            pattern,
            paper,
            background,
            specks,
            noise: *[0.0, 3.0, 8.0].choose(rng).expect("three levels"),
        }
    }

    /// RGB rows, 8 bits a channel.
    fn render(&self, rng: &mut ChaCha8Rng) -> Vec<u8> {
        let mut pixels = Vec::with_capacity((self.width * self.height * 3) as usize);
        for y in 0..self.height {
            for x in 0..self.width {
                let (x, y) = (x as f32 + 0.5, y as f32 + 0.5);
                let mut colour = self.background_at(x, y);
                for speck in &self.specks {
                    let distance = (x - speck.x).hypot(y - speck.y) - speck.radius;
                    colour = mix(colour, speck.colour, coverage(distance));
                }
                let (dx, dy) = (x - self.centre.0, y - self.centre.1);
                let inside = coverage(self.distance(dx, dy));
                if inside > 0.0 {
                    colour = mix(colour, self.fill_at(dx, dy), inside);
                }
                // A triangular draw: close enough to a normal one, and cheap.
                let grain = self.noise * 2.45 * (rng.random::<f32>() - rng.random::<f32>());
                pixels.extend(colour.map(|level| (level + grain).round().clamp(0.0, 255.0) as u8));
            }
        }
        pixels
    }

    fn background_at(&self, x: f32, y: f32) -> Colour {
        let (u, v) = (x / self.width as f32, y / self.height as f32);
        match &self.background {
            Background::Plain => self.paper,
            Background::Gradient { direction, to } => {
                let along = (u - 0.5) * direction.cos() + (v - 0.5) * direction.sin() + 0.5;
                mix(self.paper, *to, along.clamp(0.0, 1.0))
            }
            Background::Mottled { grid, cells, to } => {
                let (gx, gy) = (u * *cells as f32, v * *cells as f32);
                let (column, row) = ((gx as usize).min(cells - 1), (gy as usize).min(cells - 1));
                let (fx, fy) = (gx - column as f32, gy - row as f32);
                let at = |column: usize, row: usize| grid[row * (cells + 1) + column];
                let top = at(column, row) * (1.0 - fx) + at(column + 1, row) * fx;
                let bottom = at(column, row + 1) * (1.0 - fx) + at(column + 1, row + 1) * fx;
                mix(self.paper, *to, top * (1.0 - fy) + bottom * fy)
            }
        }
    }

    /// Signed distance from the outline, pixels, negative inside. (Exact on edges, an underestimate past corners.)
    fn distance(&self, dx: f32, dy: f32) -> f32 {
        let length = dx.hypot(dy);
        let angle = dy.atan2(dx) - self.rotation;
        match self.shape {
            Shape::Circle => length - self.radius * 0.85,
            Shape::Triangle => polygon(length, angle, 3.0, self.radius),
            Shape::Square => polygon(length, angle, 4.0, self.radius),
            Shape::Star => star(length, angle, self.radius),
        }
    }

    fn fill_at(&self, dx: f32, dy: f32) -> Colour {
        let (sin, cos) = self.texture_rotation.sin_cos();
        let (u, v) = (dx * cos + dy * sin, dy * cos - dx * sin);
        let from_cell_centre = |t: f32| (t / self.period - (t / self.period).round()) * self.period;
        let marked = match self.texture {
            Texture::Plain => 0.0,
            Texture::Striped => coverage(from_cell_centre(u).abs() - self.period * 0.25),
            Texture::Dotted => coverage(from_cell_centre(u).hypot(from_cell_centre(v)) - self.period * 0.30),
        };
        mix(self.ink, self.pattern, marked)
    }
}

/// Regular polygon of `sides` in the circle of `radius`, by folding every sector onto one edge.
fn polygon(length: f32, angle: f32, sides: f32, radius: f32) -> f32 {
    let sector = TAU / sides;
    length * (angle.rem_euclid(sector) - sector / 2.0).cos() - radius * (sector / 2.0).cos()
}

/// Five-pointed star: the edge from an outer point to the next inner one, folded ten times.
fn star(length: f32, angle: f32, radius: f32) -> f32 {
    let half = PI / 5.0;
    let folded = (angle.rem_euclid(2.0 * half) - half).abs();
    let (x, y) = (length * (half - folded).cos(), length * (half - folded).sin());
    let inner = radius * 0.45;
    let (ex, ey) = (inner * half.cos() - radius, inner * half.sin());
    ((x - radius) * ey - y * ex) / ex.hypot(ey)
}

/// How much of a pixel at `distance` from an outline lies within it.
fn coverage(distance: f32) -> f32 {
    (0.5 - distance).clamp(0.0, 1.0)
}

fn mix(from: Colour, to: Colour, share: f32) -> Colour {
    std::array::from_fn(|i| from[i] + (to[i] - from[i]) * share)
}

fn colour(rng: &mut ChaCha8Rng) -> Colour {
    std::array::from_fn(|_| rng.random_range(0.0..255.0))
}

fn near(rng: &mut ChaCha8Rng, to: Colour, spread: f32) -> Colour {
    to.map(|level| (level + rng.random_range(-spread..spread)).clamp(0.0, 255.0))
}

/// A colour at least so far (Euclidean, levels) from each of `others`: what makes the classes tellable by eye.
fn contrasting(rng: &mut ChaCha8Rng, others: &[(Colour, f32)]) -> Colour {
    // Any two colours leave most of the cube at these distances, so this ends after a few draws.
    loop {
        let candidate = colour(rng);
        let far = |(other, least): &(Colour, f32)| {
            (0..3).map(|i| (candidate[i] - other[i]).powi(2)).sum::<f32>().sqrt() >= *least
        };
        if others.iter().all(far) {
            return candidate;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_file() {
        let style = Style::default();
        assert_eq!(draw(7, 3, &style).jpeg, draw(7, 3, &style).jpeg);
        assert_ne!(draw(7, 3, &style).jpeg, draw(8, 3, &style).jpeg);
        assert_ne!(draw(7, 3, &style).jpeg, draw(7, 15, &style).jpeg);
    }

    #[test]
    fn classes_take_turns_and_sizes_stay_in_range() {
        let style = Style { short_side: 100..=120, ..Style::default() };
        for index in 0..24 {
            let drawing = draw(1, index, &style);
            assert_eq!(drawing.class, (index % 12) as usize);
            let decoded = image::load_from_memory(&drawing.jpeg).expect("a JPEG");
            assert!((100..=120).contains(&decoded.width().min(decoded.height())));
        }
    }

    #[test]
    fn outlines_have_the_area_that_geometry_says() {
        // By counting unit squares inside a shape of radius 100.
        let area = |distance: &dyn Fn(f32, f32) -> f32| {
            (-100..100)
                .flat_map(|y| (-100..100).map(move |x| (x as f32 + 0.5, y as f32 + 0.5)))
                .filter(|(x, y)| distance(x.hypot(*y), y.atan2(*x)) < 0.0)
                .count() as f32
        };
        let r = 100.0_f32;
        let rows: [(&str, f32, f32); 3] = [
            ("triangle", area(&|l, a| polygon(l, a, 3.0, r)), 0.75 * 3.0_f32.sqrt() * r * r),
            ("square", area(&|l, a| polygon(l, a, 4.0, r)), 2.0 * r * r),
            // Ten triangles between an outer and an inner radius, 36 degrees apart.
            ("star", area(&|l, a| star(l, a, r)), 5.0 * 0.45 * r * r * (PI / 5.0).sin()),
        ];
        for (name, counted, exact) in rows {
            assert!((counted / exact - 1.0).abs() < 0.01, "{name}: {counted} squares, {exact} expected");
        }
    }
}
