"""What the figures of a run show."""

# File -> title and what it shows.
# fmt: off
CAPTIONS = {
  "trade_off": ("Individuals and the public",
    "What each method gives individuals, mean acc(D_I), against what it costs"
    " the public, mean acc(D_G); bars: one standard error of the mean."),
  "distribution_individual": ("Accuracy on the individuals' own data",
    "Every individual's acc(D_I) by each method: a dot for each, a box of"
    " quartiles with whiskers to the extremes, a diamond at the mean."),
  "distribution_global": ("Accuracy on global data",
    "Every individual's model on D_G's test data, acc(D_G), by each method: a"
    " dot for each, a box of quartiles, a diamond at the mean."),
  "gains": ("Who gains by shaping",
    "Each individual's change of acc(D_I) against the baseline, in percentage"
    " points, from the largest loss to the largest gain; hollow points are"
    " hurt."),
  "gains_grouping": ("Who gains by data grouping",
    "Each individual's change of acc(D_I) against the random group, in"
    " percentage points, from the largest loss to the largest gain; hollow"
    " points are hurt."),
  "choice": ("Who is hurt, and whom a choice spares",
    "The share of individuals whose own model is worse on test data than the"
    " model of D_G alone (global): hollow if everyone gets the method's model,"
    " filled if everyone gets the better of the two on validation data."),
  "schedules": ("Schedules",
    "Which steps of training take their batch from D_G and which from D_I, by"
    " each method."),
  "training_curves": ("Training",
    "The training loss by step, over individuals, of each method."),
  "validation_curves": ("Accuracy on the way",
    "Accuracy on validation data of D_I and of D_G by step, means over"
    " individuals with their quartiles, of each method, and below them its"
    " schedule."),
  "handwriting": ("The individuals' data",
    "Samples of the first individuals, a row for each, by class."),
  "reconstructions": ("The auto-encoder",
    "Samples of D_G's test data above, and below them what the auto-encoder"
    " makes of them."),
  "latent_map": ("People in latent space",
    "Individuals and the people of D_G at their mean in latent space (the"
    " auto-encoder's for images, standardised features for all else), on its"
    " first two principal components."),
  "neighbours": ("The nearest and the farthest",
    "An individual's samples, and those of the writers whose class means are"
    " nearest and farthest in latent space, among whom IG chooses."),
  "chosen_samples": ("Samples chosen by SG",
    "Samples of an individual, and beside each the samples of D_G that it chose"
    " as the most similar ones."),
  "group_agreement": ("Groups and the hidden factors",
    "How well the groups agree with the writers' hidden factors, by the"
    " auto-encoder's latent space, by raw pixels, and by random choice."),
}
# fmt: on
