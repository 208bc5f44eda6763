"""Everything between a trained model and its samples: conversion to the recurrent view, its check, and the draw."""
