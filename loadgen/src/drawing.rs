//! Draws labelled images from a seed: one textured shape on a busy background, as a JPEG file. The bundled model is
//! trained and tested with such images, so the right answer to each is known. Pure.

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use std::f32::consts::{PI, TAU};

/// The labels in the order of the classes: `class = 3 * shape + texture`.
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

/// The ranges from which the size and the quality of an image are drawn, uniformly.
#[derive(Debug, Clone)]
pub struct ImageStyle {
    /// Length of the shorter side, in pixels.
    pub short_side: std::ops::RangeInclusive<u32>,
    /// JPEG quality, 1 to 100.
    pub quality: std::ops::RangeInclusive<u8>,
}

impl Default for ImageStyle {
    fn default() -> Self {
        Self { short_side: 180..=480, quality: 45..=95 }
    }
}

/// A drawn image, and its class.
#[derive(Debug, Clone)]
pub struct Drawing {
    /// The JPEG file.
    pub jpeg: Vec<u8>,
    /// Index of the image's label in [`LABELS`].
    pub class: usize,
}

/// Draws image `index` of the series `seed`. Consecutive images have consecutive classes, so a series has equally many
/// images of each class. The same arguments give the same file.
pub fn draw(seed: u64, index: u64, style: &ImageStyle) -> Drawing {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index);
    let class = (index % LABELS.len() as u64) as usize;
    let scene = ImageScene::sample(&mut rng, class, style);
    let pixels = scene.render(&mut rng);
    let mut jpeg = Vec::new();
    let mut encoder = Encoder::new(&mut jpeg, rng.random_range(style.quality.clone()));
    // Colours keep their full resolution, as in the images that the bundled model was trained with.
    encoder.set_sampling_factor(SamplingFactor::F_1_1);
    let (width, height) = (scene.width as u16, scene.height as u16);
    encoder
        .encode(&pixels, width, height, ColorType::Rgb)
        .expect("the pixels have this size, and memory can be written");
    Drawing { jpeg, class }
}

/// Red, green and blue, each 0 to 255.
type Colour = [f32; 3];

#[derive(Clone, Copy)]
enum Outline {
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

/// The background of an image: the colour `paper`, or mixtures of `paper` and the colour `to`.
enum Background {
    /// The colour `paper` everywhere.
    Plain,
    /// A linear gradient from `paper` to `to`. The direction is in radians.
    Gradient { direction: f32, to: Colour },
    /// Random mixtures of `paper` (0) and `to` (1) at the corners of a grid of `cells` × `cells`, and linear
    /// interpolation between the corners.
    Mottled { grid: Vec<f32>, cells: usize, to: Colour },
}

/// A disc of one colour, in front of the background and behind the shape. Lengths are in pixels.
struct Speck {
    x: f32,
    y: f32,
    radius: f32,
    colour: Colour,
}

/// Everything that is drawn in one image. Lengths are in pixels, angles in radians.
struct ImageScene {
    width: u32,
    height: u32,
    outline: Outline,
    texture: Texture,
    centre: (f32, f32),
    /// Circumradius of the shape.
    radius: f32,
    rotation: f32,
    texture_rotation: f32,
    /// Distance between stripes or dots.
    period: f32,
    /// Colour of the shape.
    ink: Colour,
    /// Colour of the stripes or dots.
    pattern: Colour,
    /// Colour of the background.
    paper: Colour,
    background: Background,
    specks: Vec<Speck>,
    /// Standard deviation of the sensor noise, in levels of 255.
    noise: f32,
}

impl ImageScene {
    /// Chooses the scene of an image of `class` at random. The order of the random choices must not change. Otherwise a
    /// seed would give other images than before.
    fn sample(rng: &mut ChaCha8Rng, class: usize, style: &ImageStyle) -> Self {
        let short = rng.random_range(style.short_side.clone());
        let long = (short as f32 * rng.random_range(1.0..1.5)) as u32;
        let (width, height) = if rng.random() { (short, long) } else { (long, short) };
        let side = short as f32;
        let radius = side * rng.random_range(0.22..0.40);
        // The model's transform keeps the central 7/8 of the shorter side. `play` keeps nearly all of the shape inside
        // it.
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
            outline: [Outline::Circle, Outline::Triangle, Outline::Square, Outline::Star][class / 3],
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
            noise: *[0.0, 3.0, 8.0].choose(rng).expect("there are three levels"),
        }
    }

    /// The pixels, row by row from the top, as bytes of red, green and blue.
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
                // The difference of two uniform values has a triangular distribution and a standard deviation of 1/√6.
                let grain = self.noise * 2.45 * (rng.random::<f32>() - rng.random::<f32>());
                pixels.extend(colour.map(|level| (level + grain).round().clamp(0.0, 255.0) as u8));
            }
        }
        pixels
    }

    /// Colour of the background at a point, which is given in pixels from the top left corner.
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

    /// Signed distance of a point from the outline, in pixels, negative inside. The point is given relative to the
    /// centre. The distance is exact beside an edge, and too small beyond a corner.
    fn distance(&self, dx: f32, dy: f32) -> f32 {
        let length = dx.hypot(dy);
        let angle = dy.atan2(dx) - self.rotation;
        match self.outline {
            Outline::Circle => length - self.radius * 0.85,
            Outline::Triangle => polygon(length, angle, 3.0, self.radius),
            Outline::Square => polygon(length, angle, 4.0, self.radius),
            Outline::Star => star(length, angle, self.radius),
        }
    }

    /// Colour of the shape at a point, which is given relative to the centre.
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

/// Signed distance of a point from the edge of a regular polygon with `sides` sides, whose corners are on a circle of
/// `radius`. The point is given by its distance from the centre and its angle. Each sector is turned onto one sector,
/// so that only one edge is computed.
fn polygon(length: f32, angle: f32, sides: f32, radius: f32) -> f32 {
    let sector = TAU / sides;
    length * (angle.rem_euclid(sector) - sector / 2.0).cos() - radius * (sector / 2.0).cos()
}

/// Signed distance of a point from the edge of a five-pointed star. The point is given by its distance from the centre
/// and its angle. The ten edges are turned and mirrored onto one, so that only the edge from an outer corner to the
/// next inner corner is computed.
fn star(length: f32, angle: f32, radius: f32) -> f32 {
    let half = PI / 5.0;
    let folded = (angle.rem_euclid(2.0 * half) - half).abs();
    let (x, y) = (length * (half - folded).cos(), length * (half - folded).sin());
    let inner = radius * 0.45;
    let (ex, ey) = (inner * half.cos() - radius, inner * half.sin());
    ((x - radius) * ey - y * ex) / ex.hypot(ey)
}

/// How much of a pixel the shape covers, 0 to 1. `distance` is that of the pixel's centre from the outline, in pixels,
/// and is negative inside the shape.
fn coverage(distance: f32) -> f32 {
    (0.5 - distance).clamp(0.0, 1.0)
}

/// A mixture of two colours: `from` at `share` 0, and `to` at `share` 1.
fn mix(from: Colour, to: Colour, share: f32) -> Colour {
    std::array::from_fn(|i| from[i] + (to[i] - from[i]) * share)
}

/// A random colour.
fn colour(rng: &mut ChaCha8Rng) -> Colour {
    std::array::from_fn(|_| rng.random_range(0.0..255.0))
}

/// A random colour whose channels differ from those of `to` by `spread` at most.
fn near(rng: &mut ChaCha8Rng, to: Colour, spread: f32) -> Colour {
    to.map(|level| (level + rng.random_range(-spread..spread)).clamp(0.0, 255.0))
}

/// A random colour whose Euclidean distance from each colour of `others` is at least the number beside that colour.
/// Shapes and textures are then visible to the eye.
fn contrasting(rng: &mut ChaCha8Rng, others: &[(Colour, f32)]) -> Colour {
    // With the distances of the callers, more than a third of all colours are far enough from two others. The loop
    // therefore ends after a few tries.
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
        let style = ImageStyle::default();
        assert_eq!(draw(7, 3, &style).jpeg, draw(7, 3, &style).jpeg);
        assert_ne!(draw(7, 3, &style).jpeg, draw(8, 3, &style).jpeg);
        assert_ne!(draw(7, 3, &style).jpeg, draw(7, 15, &style).jpeg);
    }

    #[test]
    fn classes_take_turns_and_sizes_stay_in_range() {
        let style = ImageStyle { short_side: 100..=120, ..ImageStyle::default() };
        for index in 0..24 {
            let drawing = draw(1, index, &style);
            assert_eq!(drawing.class, (index % 12) as usize);
            let size = imagesize::blob_size(&drawing.jpeg).expect("a JPEG");
            assert!((100..=120).contains(&size.width.min(size.height)));
        }
    }

    #[test]
    fn outlines_have_the_area_that_geometry_gives() {
        // Counts the unit squares inside a shape of radius 100.
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
